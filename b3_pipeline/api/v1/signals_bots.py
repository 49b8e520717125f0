"""The routes of TP-Capital's bots and channels: each change is a new version, and a bot's token only ever goes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.problems import Problem
from b3_pipeline.api.service import Service
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.v1 import answers, signals_models
from b3_pipeline.api.v1.errors import problems
from b3_pipeline.api.v1.figures import aware
from b3_pipeline.api.v1.filters import Filters, Text, parameters, read
from b3_pipeline.api.v1.signals_models import BotChange, BotGiven, ChannelChange, ChannelGiven
from b3_pipeline.api.v1.signals_writing import written
from b3_pipeline.errors import B3Error
from b3_pipeline.parsing.records import has_controls
from b3_pipeline.postgres.vault import VaultError, open_vault
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.signals import versions
from b3_pipeline.signals.hiding import Name
from b3_pipeline.signals.tokens import Sealer, token_keys
from b3_pipeline.signals.versions import Row, Versions
from b3_pipeline.tables import Table

router = APIRouter(prefix="/api/v1", tags=["signals"])
#: Bots or channels that are looked at: a desk has tens.
MOST = 10_000
_TEXT = "1 to 100 characters of plain text"


class _Listed(Filters):
    status: Literal["active", "inactive", "deleted", "all"] | None = Field(
        default=None, description="Those of this status. Without: all but deleted ones"
    )
    search: Text | None = Field(
        default=None, description="Stands in id, name or description", json_schema_extra={"allowed": _TEXT}
    )
    limit: int = Field(
        default=100,
        ge=1,
        le=1_000,
        description="At most so many items",
        json_schema_extra={"allowed": "a whole number from 1 to 1000"},
    )
    offset: int = Field(
        default=0,
        ge=0,
        le=MOST,
        description="So many are passed over",
        json_schema_extra={"allowed": f"a whole number from 0 to {MOST}"},
    )


class BotFilters(_Listed):
    type: signals_models.BotType | None = Field(default=None, description="Bots of this type")


class ChannelFilters(_Listed):
    type: signals_models.ChannelType | None = Field(default=None, description="Channels of this type")


@dataclass(frozen=True)
class _Kept:
    """What the routes of bots and those of channels differ in."""

    table: Table
    what: str
    title: str  # the column with its name
    type: str
    document: Callable[[Row], BaseModel]
    listed: type[BaseModel]


def _moments(row: Row) -> dict[str, Any]:
    return {
        name: value and aware(value) for name, value in row.items() if name.endswith("_at") or name == "last_signal"
    }


def _bot(row: Row) -> signals_models.Bot:
    rest = {name: value for name, value in row.items() if name != "token"}
    return signals_models.Bot(**{**rest, **_moments(row)}, has_token=row["token"] is not None)


def _channel(row: Row) -> signals_models.Channel:
    return signals_models.Channel(**{**row, **_moments(row)})


_BOTS = _Kept(versions.BOTS, "bot", "username", "bot_type", _bot, signals_models.Bots)
_CHANNELS = _Kept(versions.CHANNELS, "channel", "label", "channel_type", _channel, signals_models.Channels)


def _answer(document: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    every = {"Cache-Control": "no-store", **(headers or {})}
    return Response(document.model_dump_json(), status, every, answers.MEDIA_TYPE)


async def _rows(request: Request, kept: _Kept) -> list[dict[str, Any]]:
    query, values = versions.latest(kept.table, MOST)
    return await request.app.state.service.store.rows(query, *values)


async def _list(request: Request, kept: _Kept, model: type[BotFilters] | type[ChannelFilters]) -> Response:
    given = read(model, request)
    found = [row for row in await _rows(request, kept) if _is_asked(row, kept, given)]
    items = [kept.document(row) for row in found[given.offset : given.offset + given.limit]]
    return _answer(kept.listed(items=items, count=len(found)))  # pyright: ignore[reportCallIssue] (both have these)


def _is_asked(row: Row, kept: _Kept, given: BotFilters | ChannelFilters) -> bool:
    status = row["status"]
    if not (given.status == "all" or status == given.status or (given.status is None and status != versions.DELETED)):
        return False
    if given.type is not None and row[kept.type] != given.type:
        return False
    texts = (row["id"], row[kept.title], row["description"])
    return given.search is None or any(given.search.casefold() in (text or "").casefold() for text in texts)


async def _get(request: Request, kept: _Kept, ident: str) -> Response:
    for row in await _rows(request, kept):
        if row["id"] == ident and row["status"] != versions.DELETED:
            return _answer(kept.document(row), headers={"ETag": versions.tag_of(row)})
    raise _not_there(kept)


def _not_there(kept: _Kept) -> Problem:
    return Problem(404, f"There is no {kept.what} of that id, or it is deleted.")


def _told_apart(kept: _Kept, ident: str) -> None:
    """Raises Problem for an id that no table can be asked for."""
    if has_controls(ident):
        raise _not_there(kept)


async def _change(
    request: Request, kept: _Kept, change: Callable[[Versions], Row], token: SecretStr | None = None
) -> Row:
    """What a change gives; the vault is open for as long as it takes, where a token goes in. Raises Problem, StoreAway."""
    service: Service = request.app.state.service

    def write(db: QuestDB) -> Row:
        with _named(service) if token else nullcontext(_no_name) as name:
            return change(Versions(db, service.settings.home, service.settings.clock, kept.table, name))

    try:
        return await written(service, write)
    except versions.NoSuchVersion:
        raise _not_there(kept) from None
    except versions.Exists:
        raise Problem(409, f"There is a {kept.what} of that id: change that one, or give another id.") from None
    except versions.Outdated as error:
        now, tag = kept.document(error.current).model_dump(mode="json"), {"ETag": versions.tag_of(error.current)}
        raise Problem(
            412, f"The {kept.what} was changed since: `current` is what it is now.", tag, current=now
        ) from None
    except versions.BadVersion as error:
        raise _refused(error.faults) from None
    except VaultError:
        raise StoreAway("PostgreSQL does not answer: no token can be kept.") from None


@contextmanager
def _named(service: Service) -> Iterator[Name]:
    """What puts a token into the vault and gives its reference. Raises VaultError."""
    if service.postgres_dsn is None:
        raise VaultError("PostgreSQL is away.")
    with open_vault(service.postgres_dsn, lambda: token_keys(service.settings.home)) as vault:
        yield Sealer(vault).name


def _no_name(_bot: str, _token: str) -> str:
    raise B3Error("No token was given.")


def _refused(faults: Sequence[tuple[str, str]]) -> Problem:
    errors = [
        {"parameter": column, "problem": reason, "allowed": "see /api/v1/openapi.json"} for column, reason in faults
    ]
    return Problem(400, "; ".join(f"{column}: {reason}" for column, reason in faults) + ".", errors=errors)


def _given(fields: BaseModel) -> dict[str, Any]:
    """What a body gives, by column; a token as it is, for the vault."""
    values = {name: value for name, value in fields if name != "id"}
    return {n: v.get_secret_value() if isinstance(v, SecretStr) else v for n, v in values.items()}


async def _post(request: Request, kept: _Kept, given: BotGiven | ChannelGiven) -> Response:
    service: Service = request.app.state.service
    ident = given.id or versions.new_id(kept.what, service.now())
    token = getattr(given, "token", None)
    row = await _change(request, kept, lambda to: to.create(ident, _given(given)), token)
    headers = {"ETag": versions.tag_of(row), "Location": f"{router.prefix}/{kept.what}s/{ident}"}
    return _answer(kept.document(row), 201, headers)


async def _put(request: Request, kept: _Kept, ident: str, given: BotChange | ChannelChange) -> Response:
    _told_apart(kept, ident)
    match, token = request.headers.get("if-match"), getattr(given, "token", None)
    row = await _change(request, kept, lambda to: to.replace(ident, _given(given), match), token)
    return _answer(kept.document(row), headers={"ETag": versions.tag_of(row)})


async def _delete(request: Request, kept: _Kept, ident: str) -> Response:
    _told_apart(kept, ident)
    match = request.headers.get("if-match")
    await _change(request, kept, lambda to: to.delete(ident, match))
    return Response(status_code=204)


_CHANGED = (
    "Each change is a new version; older ones stay. `If-Match` with an ETag: only while nobody has changed it since. "
)
_TOKEN = "A token goes in and never comes out: it is kept encrypted, and answers say only whether there is one. "


@router.get(
    "/bots",
    summary="The Telegram bots, each in its newest version",
    description=f"By id. {_TOKEN}",
    response_model=signals_models.Bots,
    responses=problems(400, 503),
    openapi_extra={"parameters": parameters(BotFilters)},
)
async def get_bots(request: Request) -> Response:
    return await _list(request, _BOTS, BotFilters)


@router.post(
    "/bots",
    summary="Enters a bot",
    description=f"{_TOKEN}The id of a deleted bot may be used again. Needs a key.",
    status_code=201,
    response_model=signals_models.Bot,
    responses=problems(400, 403, 409, 503),
)
async def post_bot(request: Request, given: BotGiven) -> Response:
    return await _post(request, _BOTS, given)


@router.get(
    "/bots/{ident}",
    summary="One Telegram bot",
    description=f"Its newest version. {_TOKEN}",
    response_model=signals_models.Bot,
    responses=problems(400, 404, 503),
)
async def get_bot(request: Request, ident: str) -> Response:
    return await _get(request, _BOTS, ident)


@router.put(
    "/bots/{ident}",
    summary="Changes a bot",
    description=f"{_CHANGED}{_TOKEN}Needs a key.",
    response_model=signals_models.Bot,
    responses=problems(400, 403, 404, 412, 503),
)
async def put_bot(request: Request, ident: str, given: BotChange) -> Response:
    return await _put(request, _BOTS, ident, given)


@router.delete(
    "/bots/{ident}",
    summary="Deletes a bot",
    description=f"{_CHANGED}Its last version has the status deleted. Needs a key.",
    status_code=204,
    responses=problems(400, 403, 404, 412, 503),
)
async def delete_bot(request: Request, ident: str) -> Response:
    return await _delete(request, _BOTS, ident)


@router.get(
    "/channels",
    summary="The Telegram channels, each in its newest version",
    description="By id.",
    response_model=signals_models.Channels,
    responses=problems(400, 503),
    openapi_extra={"parameters": parameters(ChannelFilters)},
)
async def get_channels(request: Request) -> Response:
    return await _list(request, _CHANNELS, ChannelFilters)


@router.post(
    "/channels",
    summary="Enters a channel",
    description="The id of a deleted channel may be used again. Needs a key.",
    status_code=201,
    response_model=signals_models.Channel,
    responses=problems(400, 403, 409, 503),
)
async def post_channel(request: Request, given: ChannelGiven) -> Response:
    return await _post(request, _CHANNELS, given)


@router.get(
    "/channels/{ident}",
    summary="One Telegram channel",
    description="Its newest version.",
    response_model=signals_models.Channel,
    responses=problems(400, 404, 503),
)
async def get_channel(request: Request, ident: str) -> Response:
    return await _get(request, _CHANNELS, ident)


@router.put(
    "/channels/{ident}",
    summary="Changes a channel",
    description=f"{_CHANGED}Needs a key.",
    response_model=signals_models.Channel,
    responses=problems(400, 403, 404, 412, 503),
)
async def put_channel(request: Request, ident: str, given: ChannelChange) -> Response:
    return await _put(request, _CHANNELS, ident, given)


@router.delete(
    "/channels/{ident}",
    summary="Deletes a channel",
    description=f"{_CHANGED}Its last version has the status deleted. Needs a key.",
    status_code=204,
    responses=problems(400, 403, 404, 412, 503),
)
async def delete_channel(request: Request, ident: str) -> Response:
    return await _delete(request, _CHANNELS, ident)
