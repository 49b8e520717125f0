"""The documents of the ideas' routes, made of the collections' fields: what OpenAPI shows, with an example of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model

from b3_pipeline.api.v1.filters import TEXT_ALLOWED, Filters, Text
from b3_pipeline.lowdb import model
from b3_pipeline.lowdb.model import Collection, Kind
from b3_pipeline.lowdb.rules import MOST_BYTES, MOST_EXTRA, MOST_TAGS, moment_text
from b3_pipeline.lowdb.store import Change, Stored, filters_of

#: How many records a list gives.
LIMIT, MOST = 20, 100
#: How many cards of one status a board gives, and how many changes a history.
CARDS, MOST_CARDS = 100, 100
#: How many records are counted where a list is longer.
COUNTED = 100
LONGEST_SEARCH, FARTHEST = 200, 1_000_000_000
#: The header that says how many records there are in all, beyond what a list gives; left out where there are too many.
TOTAL = "X-Total-Count"
#: The address of one record has its id in this form.
ID = r"^[1-9][0-9]{0,18}$"

_NAMES: Mapping[str, str] = {
    "ideas": "Idea",
    "documentation_systems": "DocumentationSystem",
    "documentation_ideas": "DocumentationIdea",
    "documentation_links": "DocumentationLink",
    "documentation_files": "DocumentationFile",
}
_EXAMPLES: Mapping[str, Any] = {
    "title": "Exportação do painel",
    "description": "Os ajustes da sessão em CSV.",
    "category": "dashboard",
    "priority": "high",
    "status": "review",
    "tags": ["coleta", "tendência"],
    "createdAt": "2025-09-21T08:54:00.000Z",
    "updatedAt": "2025-09-23T15:31:00.000Z",
    "idea_id": "51",
    "name": "Coleta",
    "shortName": "S1",
    "port": 3001,
    "color": "#7f1f16",
    "icon": "server",
    "url": "https://example.org/replay/1",
    "filename": "f53143b92842d425.pdf",
    "original_name": "opções 1.pdf",
    "mime_type": "application/pdf",
    "size": 5921846,
}
_DESCRIPTIONS: Mapping[str, str] = {
    "createdAt": "When it was made, UTC; the service says",
    "updatedAt": "When it was changed the last time, UTC; null: never. The service says",
    "idea_id": "The documentation idea that it belongs to; there must be one",
    "port": "TCP port",
    "size": "Bytes",
    "tags": "In their order",
}


def _allowed(what: str) -> dict[str, JsonValue]:
    """What a parameter may be, for whoever sends something else."""
    return {"allowed": what}


def _limit(default: int, most: int, of: str) -> Any:
    extra = _allowed(f"a whole number from 1 to {most}")
    return Field(default=default, ge=1, le=most, description=f"At most so many {of}", json_schema_extra=extra)


def _words(default: str | None) -> Any:
    return Field(
        default=default,
        max_length=LONGEST_SEARCH,
        description="Beginnings of words, without regard to case and accents: all of them must be there",
        json_schema_extra=_allowed(f"at most {LONGEST_SEARCH} characters"),
    )


class Listed(Filters):
    """A list of records, by id."""

    limit: int = _limit(LIMIT, MOST, "records")
    offset: int = Field(
        default=0,
        ge=0,
        le=FARTHEST,
        description="So many records are left out at the beginning",
        json_schema_extra=_allowed(f"a whole number from 0 to {FARTHEST}"),
    )


class Found(Listed):
    """What a search for words gives."""

    q: str = _words("")


class Newest(Filters):
    """The changes of an idea, newest first."""

    limit: int = _limit(CARDS, MOST_CARDS, "changes")


class Board(Filters):
    """The columns of a board."""

    limit: int = _limit(CARDS, MOST_CARDS, "records of each status")


class Entry(BaseModel):
    """A change of an idea, as the database noted it."""

    id: int
    at: Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="UTC")]
    who: str
    action: Literal["insert", "update", "delete"]
    before: dict[str, Any] | None = Field(description="The idea before; null: there was none")
    after: dict[str, Any] | None = Field(description="The idea afterwards; null: it was taken away")


class HistoryAnswer(BaseModel):
    success: Literal[True]
    data: list[Entry]
    count: int = Field(description="How many changes `data` has")


class Statistics(BaseModel):
    total: int
    by_status: dict[str, int]


class StatisticsAnswer(BaseModel):
    success: Literal[True]
    data: Statistics


@cache
def record(collection: Collection) -> type[BaseModel]:
    """A record as it is answered."""
    return _model(_NAMES[collection.table], collection.fields)


@cache
def sent(collection: Collection) -> type[BaseModel]:
    """A record as it is sent: without the id and the stamps, which the service gives."""
    service = {collection.id.name, collection.created, collection.updated}
    return _model(f"{_NAMES[collection.table]}Sent", [f for f in collection.fields if f.name not in service])


def _model(name: str, fields: Iterable[model.Field]) -> type[BaseModel]:
    members: dict[str, Any] = {field.name: (_type(field), ... if field.required else None) for field in fields}
    # what no field names is kept as it comes
    return create_model(name, __config__=ConfigDict(extra="allow"), **members)


def _type(field: model.Field) -> Any:
    described = {"description": _DESCRIPTIONS.get(field.name), "examples": [example_of(field)]}
    match field.kind:
        case Kind.TEXT_ID:
            return Annotated[str, Field(pattern=ID, **described)]
        case Kind.ID | Kind.WHOLE:
            return Annotated[int, Field(ge=field.low, le=field.high, **described)]
        case Kind.CHOICE:
            return Annotated[Literal[field.choices], Field(**described)]
        case Kind.TAGS:
            tag = Annotated[str, Field(max_length=field.longest)]
            return Annotated[list[tag], Field(max_length=MOST_TAGS, **described)]
        case Kind.MOMENT:
            moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
            return Annotated[moment if field.required else moment | None, Field(**described)]
        case Kind.TITLE:
            return Annotated[str, Field(max_length=field.longest, pattern=r"\S", **described)]
        case Kind.TEXT:
            return Annotated[str, Field(max_length=field.longest, **described)]


def example_of(field: model.Field) -> Any:
    """A value that the field may have."""
    return _EXAMPLES.get(field.name, "7" if field.kind is Kind.TEXT_ID else 7)


@cache
def one(collection: Collection) -> type[BaseModel]:
    """The envelope of one record."""
    return _envelope(f"{_NAMES[collection.table]}Answer", record(collection))


@cache
def page(collection: Collection) -> type[BaseModel]:
    """The envelope of a list."""
    count = f"How many records `data` has; `{TOTAL}` says how many there are in all, up to {COUNTED}"
    return _envelope(
        f"{_NAMES[collection.table]}List",
        list[record(collection)],
        count=(int, Field(description=count)),
        filters=_GIVEN,
    )


@cache
def board(collection: Collection) -> type[BaseModel]:
    """The envelope of the board."""
    return _envelope(
        f"{_NAMES[collection.table]}Board",
        dict[str, list[record(collection)]],
        count=(int, Field(description="How many records there are in all")),
        counts=(dict[str, int], Field(description="How many there are of each status, beyond `limit`")),
        filters=_GIVEN,
    )


_GIVEN = (dict[str, str], Field(description="The filters that were given"))


def _envelope(name: str, data: Any, **more: Any) -> type[BaseModel]:
    return create_model(name, success=(Literal[True], ...), data=(data, ...), **more)


@cache
def filters(collection: Collection) -> type[Listed]:
    """The parameters of a list."""
    return create_model(f"{_NAMES[collection.table]}Filters", __base__=Listed, **_filters(collection))


@cache
def cards(collection: Collection) -> type[Board]:
    """The parameters of a board."""
    members = {name: filter for name, filter in _filters(collection).items() if name != "status"}
    return create_model(f"{_NAMES[collection.table]}Cards", __base__=Board, **members)


def _filters(collection: Collection) -> dict[str, Any]:
    found = {name: _filter(name, field) for name, field in filters_of(collection).items()}
    return {**found, "search": (str | None, _words(None))}


def _filter(name: str, field: model.Field) -> Any:
    what = f"Records with this {name.replace('_', ' ')}"
    if field.choices:
        return Optional[Literal[field.choices]], Field(default=None, description=what)  # noqa: UP045 (made at runtime)
    if field.refers_to:
        extra = _allowed("a whole number from 1 on")
        return str | None, Field(default=None, pattern=ID, description=what, json_schema_extra=extra)
    return Optional[Text], Field(  # noqa: UP045
        default=None, description=what, json_schema_extra=_allowed(TEXT_ALLOWED)
    )


def allowed(field: model.Field) -> str:
    """What a member may be, for whoever sent something else."""
    match field.kind:
        case Kind.CHOICE:
            return ", ".join(field.choices)
        case Kind.WHOLE | Kind.ID:
            return f"a whole number from {field.low} to {field.high}"
        case Kind.TEXT_ID:
            return 'a whole number from 1 on, as a text: "1"'
        case Kind.TAGS:
            return f"at most {MOST_TAGS} texts, each one line that is not blank, of at most {field.longest} characters"
        case Kind.TITLE:
            return f"one line that is not blank, of at most {field.longest} characters"
        case Kind.TEXT:
            return f"a text of at most {field.longest} characters"
        case Kind.MOMENT:
            return "a moment with its zone: 2025-09-21T08:54:00.000Z"


#: What a record may be as a whole.
WHOLE_ALLOWED = f"at most {MOST_BYTES >> 10} KiB, with at most {MOST_EXTRA} members that no field names"


def example(collection: Collection) -> dict[str, Any]:
    """A record."""
    return {field.name: example_of(field) for field in collection.fields}


def envelope(data: Any, **more: Any) -> dict[str, Any]:
    """What is answered, as the clients' recorded contract has it."""
    return {"success": True, "data": data, **more}


def records(found: list[Stored]) -> list[dict[str, Any]]:
    """The records of a list."""
    return [each.record for each in found]


def given_filters(given: Filters) -> dict[str, str]:
    """The filters that were given, by name; what is empty was not."""
    return {name: value for name, value in given if value and name not in ("limit", "offset")}


def has_board(collection: Collection) -> bool:
    """Whether the collection's records stand on a board, by status."""
    return any(field.name == "status" and field.choices for field in collection.fields)


def entry(change: Change) -> dict[str, Any]:
    """A change as it is answered."""
    return {**vars(change), "at": moment_text(change.at)}


def entry_example(after: Mapping[str, Any]) -> dict[str, Any]:
    """A change."""
    before = {**after, "status": "new", "updatedAt": None}
    return {"id": 12, "at": after.get("updatedAt"), "who": "api", "action": "update", "before": before, "after": after}
