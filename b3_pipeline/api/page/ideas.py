"""`/ideias`: the idea bank as a board by status, an idea with its history, and the form for a new one.

What is shown is what the store holds, read on the server; changes go through `/api/v1/ideas`, by `static/ideas.js`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.responses import HTMLResponse, Response

from b3_pipeline.api.page.formats import count
from b3_pipeline.api.page.rendering import render
from b3_pipeline.api.service import Service
from b3_pipeline.lowdb.model import CATEGORIES, IDEAS, PRIORITIES, STATUSES, Record
from b3_pipeline.lowdb.store import Asked, Change, NoHistory, NoSuchRecord, Store, StoreAway, Stored
from b3_pipeline.parsing.records import has_controls

router = APIRouter(include_in_schema=False)

#: Cards of a column on the whole board, and of one status alone on a page.
A_COLUMN, A_PAGE = 20, 100
#: The last page that can be asked for; so many ideas of a column are counted; so many tags of an idea stand on its card.
LAST_PAGE, COUNTED, CARD_TAGS = 1_000, 500, 20
#: Changes of an idea that are shown, the newest; and of a text in one so many characters.
CHANGES, SHOWN_TEXT = 50, 300
#: The codes as the desk reads them, each in the order of its list.
STATUS_NAMES: Mapping[str, str] = dict(
    zip(STATUSES, ("Nova", "Em análise", "Em andamento", "Concluída", "Rejeitada"), strict=True)
)
PRIORITY_NAMES: Mapping[str, str] = dict(zip(PRIORITIES, ("baixa", "média", "alta", "crítica"), strict=True))
CATEGORY_NAMES: Mapping[str, str] = dict(
    zip(
        CATEGORIES,
        ("Documentação", "Coleta de dados", "Banco de dados", "Análise de dados", "Gestão de riscos", "Dashboard"),
        strict=True,
    )
)
FIELD_NAMES: Mapping[str, str] = {
    "title": "Título",
    "description": "Descrição",
    "category": "Categoria",
    "priority": "Prioridade",
    "status": "Situação",
    "tags": "Etiquetas",
}
_ACTIONS = {"insert": "criou", "update": "mudou", "delete": "apagou"}


# What is asked for


def _nothing(text: str | None) -> str | None:
    return text or None


def _one_of(codes: Sequence[str]) -> AfterValidator:
    def checked(text: str | None) -> str | None:
        if text is not None and text not in codes:
            raise PydanticCustomError("code", "is none of ours", {"expected": ", ".join(codes)})
        return text

    return AfterValidator(checked)


def _plain(text: str | None) -> str | None:
    if text is not None and has_controls(text):
        raise PydanticCustomError("text", "has control characters", {"expected": "plain text"})
    return text


#: A text that may be left out; a form sends an empty one then.
_Text: TypeAlias = Annotated[str | None, Field(max_length=200), AfterValidator(_plain), BeforeValidator(_nothing)]


class Sought(BaseModel):
    """What the board is asked for: its query parameters."""

    model_config = ConfigDict(frozen=True)

    search: _Text = Field(None, alias="busca")
    category: Annotated[_Text, _one_of(CATEGORIES)] = Field(None, alias="categoria")
    priority: Annotated[_Text, _one_of(PRIORITIES)] = Field(None, alias="prioridade")
    tag: _Text = Field(None, alias="etiqueta")
    status: Annotated[_Text, _one_of(STATUSES)] = Field(None, alias="situacao")
    page: int = Field(1, alias="pagina", ge=1, le=LAST_PAGE)

    def filters(self, status: str) -> dict[str, str]:
        """The store's filters of one column."""
        given = {"status": status, "category": self.category, "priority": self.priority, "tag": self.tag}
        return {name: value for name, value in given.items() if value is not None}

    def address(self, **changes: object) -> str:
        """The board's address with some parameters that are other; from its first page on unless `page` is one of them."""
        asked = self.model_copy(update={"page": 1, **changes}).model_dump(by_alias=True, exclude_defaults=True)
        return f"/ideias?{urlencode(asked)}" if asked else "/ideias"


# What is shown


@dataclass(frozen=True)
class Card:
    """An idea as the board shows it, with the first of its tags; `age_s` is since it was created."""

    record: Record
    tags: Sequence[str]
    etag: str
    created: datetime
    age_s: float


@dataclass(frozen=True)
class Column:
    """The ideas of a status: those that are shown, and how many there are with these filters; more than `COUNTED`: no count."""

    status: str
    cards: Sequence[Card]
    total: int
    before: str | None = None  # the addresses of what is not shown
    after: str | None = None


@dataclass(frozen=True)
class Edit:
    """A change in the history of an idea: the fields that are other, each with what it was and what it became."""

    at: datetime
    who: str
    did: str
    fields: Sequence[tuple[str, str, str]]


async def board(ideas: Store, sought: Sought, now: datetime) -> dict[str, Any]:
    """What the board's template needs. Raises StoreAway."""
    statuses = [sought.status] if sought.status else STATUSES
    columns = [await _column(ideas, sought, status, now) for status in statuses]
    tags = {tag for column in columns for card in column.cards for tag in card.tags}
    return {"columns": columns, "total": told(column.total for column in columns), "known_tags": sorted(tags)}


def told(totals: Iterable[int]) -> str:
    """How many there are of columns together, for people: `500+` where not all were counted."""
    all_of_them = list(totals)
    more = any(total > COUNTED for total in all_of_them)
    return f"{count(sum(min(total, COUNTED) for total in all_of_them))}{'+' if more else ''}"


async def _column(ideas: Store, sought: Sought, status: str, now: datetime) -> Column:
    alone = sought.status is not None
    limit, offset = (A_PAGE, (sought.page - 1) * A_PAGE) if alone else (A_COLUMN, 0)
    far = max(COUNTED, offset + limit)  # whether there is a page after this one is always known
    found, total = await ideas.page(IDEAS, Asked(limit, offset, sought.filters(status), sought.search, far))
    before = sought.address(page=sought.page - 1) if alone and sought.page > 1 else None
    page = sought.page + 1 if alone else 1
    after = sought.address(status=status, page=page) if total > offset + limit and page <= LAST_PAGE else None
    return Column(status, [_card(stored, now) for stored in found], total, before, after)


def _card(stored: Stored, now: datetime) -> Card:
    created = datetime.fromisoformat(stored.record["createdAt"])
    return Card(stored.record, stored.record["tags"][:CARD_TAGS], stored.etag, created, (now - created).total_seconds())


async def history(ideas: Store, number: int) -> tuple[list[Edit], str | None]:
    """The newest changes of an idea; where there are none, why."""
    try:
        changes = await ideas.history(number, CHANGES)
    except (NoHistory, NoSuchRecord):
        return [], "sem histórico: os arquivos do LowDB não guardam nenhum"
    except StoreAway:
        return [], "o histórico não está disponível agora: o PostgreSQL não responde"
    return [Edit(change.at, change.who, _ACTIONS[change.action], _changed(change)) for change in changes], None


def _changed(change: Change) -> list[tuple[str, str, str]]:
    before, after = change.before, change.after
    if before is None or after is None:  # it is all new, or all gone: nothing to set side by side
        return []
    return [
        (label, _shown(name, before[name]), _shown(name, after[name]))
        for name, label in FIELD_NAMES.items()
        if before[name] != after[name]
    ]


def _shown(name: str, value: str | list[str]) -> str:
    names = {"category": CATEGORY_NAMES, "priority": PRIORITY_NAMES, "status": STATUS_NAMES}.get(name, {})
    text = ", ".join(value) if isinstance(value, list) else value
    return names.get(text, text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}…")


# Routes


@router.get("/ideias")
async def ideas_page(request: Request, sought: Annotated[Sought, Query()]) -> Response:
    """The board; without JavaScript it is for reading, and its filters work."""
    service: Service = request.app.state.service
    try:
        shown = await board(service.ideas, sought, service.now())
    except StoreAway:
        return await answer(service, "ideas.html", 503, sought=sought, columns=None, total=None, known_tags=[])
    return await answer(service, "ideas.html", sought=sought, **shown)


@router.get("/ideias/nova")
async def new_idea(request: Request) -> Response:
    """The form for a new idea."""
    return await answer(request.app.state.service, "idea.html", idea=None)


@router.get("/ideias/{number}")
async def idea_page(request: Request, number: Annotated[int, Path(ge=1, le=IDEAS.id.high)]) -> Response:
    """One idea: all of it, its history, and the form that changes it."""
    service: Service = request.app.state.service
    try:
        stored = await service.ideas.get(IDEAS, number)
    except NoSuchRecord:
        return await answer(service, "no_idea.html", 404, number=number)
    except StoreAway:
        return await answer(service, "no_idea.html", 503, number=None)
    edits, why = await history(service.ideas, number)
    return await answer(service, "idea.html", idea=stored, edits=edits, no_history=why)


async def answer(service: Service, template: str, status: int = 200, here: str = "/ideias", **values: Any) -> Response:
    """A page of the idea bank, written away from the loop; `here` is its place in the navigation."""
    html = await asyncio.to_thread(
        render,
        template,
        here=here,
        dagster_url=service.dagster_url,
        as_of=service.ideas.as_of,
        statuses=STATUS_NAMES,
        priorities=PRIORITY_NAMES,
        categories=CATEGORY_NAMES,
        told=told,
        **values,
    )
    headers = {"Cache-Control": "no-store"} | ({"Retry-After": "5"} if status == 503 else {})
    return HTMLResponse(html, status, headers)
