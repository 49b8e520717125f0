"""What may be asked of each route: its parameters, what each may be, and the error that names all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from b3_pipeline.api.paging import ALL_FEEDS, BadCursor, Listing, Position, from_cursor
from b3_pipeline.api.problems import Problem
from b3_pipeline.legacy_documents import LABELS
from b3_pipeline.parsing.months import BadMonth, as_code, as_tenor, is_code
from b3_pipeline.parsing.records import has_controls
from b3_pipeline.parsing.times import BadDate, BadTime
from b3_pipeline.parsing.tp_capital import parse_moment
from b3_pipeline.quality.stored import Condition, condition, one_of
from b3_pipeline.sessions import NonexistentTime, Window, to_utc
from b3_pipeline.tables import indicator_slug

LIMIT, MOST = 100, 1_000
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII
)
#: A plus sign that was not escaped comes as a space.
_BARE_PLUS = re.compile(r" ([0-9]{2}:[0-9]{2})$", re.ASCII)
_MICROSECOND, _ONE_DAY = timedelta(microseconds=1), timedelta(days=1)
_SHOWN = 60
_WHEN = (
    "YYYY-MM-DD (that local day, Brasília) or YYYY-MM-DDThh:mm[:ss] with Z or an offset (without one it is local time)"
)
_MONTH = "a contract month: X25 or nov-25"
TEXT_ALLOWED = "1 to 100 characters of plain text, as the answers have it"

_LABELS = {indicator_slug(label): label for label in LABELS}

F = TypeVar("F", bound="Filters")


class BadMoment(ValueError):
    """A text that is neither a day nor a moment, or of a time that never was."""


def span(text: str) -> Window:
    """The time that a day or a moment stands for: all of a local day, or the one microsecond. Raises BadMoment."""
    text = _BARE_PLUS.sub(r"+\1", text)
    try:
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text)
            return Window(_local(datetime.combine(day, time())), _day_after(day))
        if not _MOMENT.fullmatch(text):
            raise BadMoment("is neither a day nor a moment")
        given = datetime.fromisoformat(text)
        start = to_utc(given) if given.tzinfo is None else given.astimezone(UTC).replace(tzinfo=None)
        return Window(start, start + _MICROSECOND)
    except NonexistentTime:
        raise BadMoment("is a local time that never was: the clocks were put forward over it") from None
    except BadMoment:
        raise
    except ValueError as error:
        raise BadMoment(f"is no time that there is: {error}") from None
    except OverflowError:
        raise BadMoment("lies beyond the years that a calendar has") from None


def _day_after(day: date) -> datetime | None:
    """The end of a local day, naive UTC; None for the last one that there is."""
    try:
        return _local(datetime.combine(day, time()) + _ONE_DAY)
    except OverflowError:
        return None


def _local(midnight: datetime) -> datetime:
    try:
        return to_utc(midnight)
    except NonexistentTime:  # the clocks were put forward at midnight
        return to_utc(midnight + timedelta(hours=1))


def _when(text: str) -> str:
    span(text)
    return text


def _signal_moment(text: str) -> str:
    try:
        parse_moment(text)
    except (BadDate, BadTime):
        raise ValueError("is no moment as signals have it") from None
    return text


def _month(text: str) -> str:
    """The code of a month in either form and either case."""
    try:
        return as_code(text.upper() if is_code(text.upper()) else text.lower())
    except BadMonth:
        raise ValueError("is no contract month") from None


def _plain(text: str) -> str:
    if has_controls(text):
        raise ValueError("has characters that no text of ours has")
    return text


When = Annotated[str, AfterValidator(_when)]
Text = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain)]
Feed = Literal[
    "all",
    "b3_sprd",
    "b3_indicators",
    "b3_vol_xlsx",
    "yahoo_dxy",
    "gammalevels",
    "legacy_capture",
    "legacy_csv",
    "composed",
]


class Filters(BaseModel):
    """The parameters of a route. Those that a route does not have are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def conditions(self) -> Iterator[Condition]:
        """What the rows must meet, beside their time."""
        yield from ()


class Paged(Filters):
    """A result that is given in pages, newest first."""

    from_: When | None = Field(
        default=None,
        alias="from",
        description="Not before this: a day (YYYY-MM-DD) is a local one, Brasília; so is a time without a zone",
        examples=["2025-10-13"],
        json_schema_extra={"allowed": _WHEN},
    )
    to: When | None = Field(
        default=None,
        description="Not after this: of a day all of it, a moment itself included",
        examples=["2025-10-14T15:00:00Z"],
        json_schema_extra={"allowed": _WHEN},
    )
    limit: int = Field(
        default=LIMIT,
        ge=1,
        le=MOST,
        description="At most so many items",
        json_schema_extra={"allowed": f"a whole number from 1 to {MOST}"},
    )
    cursor: str | None = Field(
        default=None,
        description="`next_cursor` of the answer before, for what is older; the other parameters as they were",
        json_schema_extra={"allowed": "`next_cursor` of an answer to the same question"},
    )

    def window(self) -> Window:
        """The time that is asked for, naive UTC."""
        return Window(span(self.from_).start if self.from_ else None, span(self.to).end if self.to else None)

    def where(self, ts: str = "ts") -> Condition:
        """Everything that the rows must meet, their time included."""
        window = self.window()
        found = condition("{ts} is not null", ts=ts)
        if window.start is not None:
            found &= condition("{ts} >= %s", window.start, ts=ts)
        if window.end is not None:
            found &= condition("{ts} < %s", window.end, ts=ts)
        for more in self.conditions():
            found &= more
        return found

    @property
    def one_a_key(self) -> bool:
        """Whether of several feeds' rows of one key one is wanted."""
        return False

    def question(self) -> tuple[Any, ...]:
        """What is asked for, without how much and where from: what a cursor is of."""
        return type(self).__name__, *sorted(self.model_dump(exclude={"limit", "cursor"}, exclude_none=True).items())

    def position(self, listing: Listing) -> Position | None:
        """Where the page begins. Raises Problem for a bad cursor."""
        return self.position_of(*listing.types(self.one_a_key))

    def position_of(self, *types: type) -> Position | None:
        """Where the page begins, with further keys of these types. Raises Problem for a bad cursor."""
        if self.cursor is None:
            return None
        try:
            return from_cursor(self.cursor, self.question(), types)
        except BadCursor as error:
            raise refused([_error(type(self), "cursor", f"is {error}")]) from None


class Fed(Paged):
    """Rows that feeds bring."""

    feed: Feed | None = Field(
        default=None,
        description="Rows of this feed; `all`: of every feed. Without: of each key the row of the feed that takes "
        "precedence (the live source, then legacy_capture, legacy_csv, composed)",
    )

    def conditions(self) -> Iterator[Condition]:
        if self.feed not in (None, ALL_FEEDS):
            yield condition("{c} = %s", self.feed, c="feed")

    @property
    def one_a_key(self) -> bool:
        return self.feed is None


class _OfContract(Fed):
    contract: Annotated[str, AfterValidator(_month)] | None = Field(
        default=None,
        description="Contract month, X25 and nov-25 alike",
        examples=["X25", "nov-25"],
        json_schema_extra={"allowed": _MONTH},
    )

    def conditions(self) -> Iterator[Condition]:
        yield from super().conditions()
        if self.contract:
            yield one_of("contract_month", (self.contract, as_tenor(self.contract)))


class _Listed(_OfContract):
    def conditions(self) -> Iterator[Condition]:
        yield from super().conditions()
        if instrument := getattr(self, "instrument", None):
            yield condition("{c} = %s", instrument, c="instrument")


class SnapshotFilters(_Listed):
    instrument: Literal["DI1", "DDI", "DOL"] | None = Field(default=None, description="The future")


class AdjustmentFilters(_Listed):
    instrument: Literal["DI1", "DDI", "DOL", "WDO", "WIN", "IND"] | None = Field(default=None, description="The future")


class SurfaceFilters(_OfContract):
    limit: int = Field(
        default=LIMIT,
        ge=1,
        le=MOST,
        description="At most so many tenors, each with all its deltas: none is ever cut",
        json_schema_extra={"allowed": f"a whole number from 1 to {MOST}"},
    )


class GammaFilters(Fed):
    instrument: Literal["ES_SP500", "VIX"] | None = Field(default=None, description="The S&P 500 future, or the VIX")

    def conditions(self) -> Iterator[Condition]:
        yield from super().conditions()
        if self.instrument:
            yield condition("{c} = %s", self.instrument, c="instrument")


class IndicatorFilters(Fed):
    indicator: Text | None = Field(
        default=None,
        description="The label, verbatim, or the short name of one of the desk's four",
        examples=["taxa_selic"],
        json_schema_extra={"allowed": TEXT_ALLOWED},
    )

    def conditions(self) -> Iterator[Condition]:
        yield from super().conditions()
        if self.indicator:
            yield one_of("name", (self.indicator, _LABELS.get(self.indicator, self.indicator)))


class DailyIndicatorFilters(Fed):
    indicator: Text | None = Field(
        default=None,
        description="The short name",
        examples=["taxa_selic"],
        json_schema_extra={"allowed": TEXT_ALLOWED},
    )

    def conditions(self) -> Iterator[Condition]:
        yield from super().conditions()
        if self.indicator:
            yield condition("{c} = %s", self.indicator, c="indicator")


class DxyFilters(Fed):
    pass


class LoadFilters(Paged):
    table: Text | None = Field(
        default=None,
        description="The table that was filled",
        examples=["b3_adjustments"],
        json_schema_extra={"allowed": TEXT_ALLOWED},
    )
    feed: Text | None = Field(
        default=None,
        description="The feed of its rows",
        examples=["b3_sprd"],
        json_schema_extra={"allowed": TEXT_ALLOWED},
    )
    outcome: Literal["started", "partial", "loaded", "rejected"] | None = Field(
        default=None, description="What became of it"
    )

    def conditions(self) -> Iterator[Condition]:
        for column, value in (("table_name", self.table), ("feed", self.feed), ("outcome", self.outcome)):
            if value:
                yield condition("{c} = %s", value, c=column)


class SignalFilters(Paged):
    channel: Text | None = Field(
        default=None, description="The Telegram channel", json_schema_extra={"allowed": TEXT_ALLOWED}
    )
    asset: Text | None = Field(
        default=None, description="B3's ticker", examples=["PETRJ370"], json_schema_extra={"allowed": TEXT_ALLOWED}
    )
    type: Text | None = Field(
        default=None,
        description="The signal's type, as the answers have it",
        examples=["Day Trade"],
        json_schema_extra={"allowed": TEXT_ALLOWED},
    )
    search: Text | None = Field(
        default=None,
        description="Stands in the message, whatever its case",
        examples=["alvo 2"],
        json_schema_extra={"allowed": TEXT_ALLOWED},
    )

    def conditions(self) -> Iterator[Condition]:
        for column, value in (("channel", self.channel), ("asset", self.asset), ("signal_type", self.type)):
            if value:
                yield condition("{c} = %s", value, c=column)
        if self.search:
            yield condition("strpos(lower({c}), lower(%s)) > 0", self.search, c="raw_message")


class SignalKeyFilters(Filters):
    """What tells one signal from all others."""

    ts: Annotated[str, AfterValidator(_signal_moment)] = Field(
        description="When it was sent, UTC",
        examples=["2025-10-11T12:15:40Z"],
        json_schema_extra={"allowed": "YYYY-MM-DDThh:mm:ssZ"},
    )
    channel: Text = Field(description="The Telegram channel", json_schema_extra={"allowed": TEXT_ALLOWED})
    signal_type: Text = Field(
        description="The signal's type", examples=["Day Trade"], json_schema_extra={"allowed": TEXT_ALLOWED}
    )
    asset: Text = Field(description="B3's ticker", examples=["PETRJ370"], json_schema_extra={"allowed": TEXT_ALLOWED})


class Newest(Filters):
    """A result of which only the newest is given."""

    limit: int = Field(
        default=30,
        ge=1,
        le=100,
        description="At most so many of each list",
        json_schema_extra={"allowed": "a whole number from 1 to 100"},
    )


class OfDomain(Newest):
    domain: Literal["market", "ideas"] = Field(
        default="market", description="What moves: the market data, or the ideas and their documentation"
    )


def read(model: type[F], request: Request) -> F:
    """The parameters of a request. Raises Problem (400), which names each that is wrong and what it may be."""
    given: dict[str, str] = {}
    errors = []
    for name, value in request.query_params.multi_items():
        if name in given:
            errors.append(_error(model, name, "is given more than once"))
        given[name] = value
    try:
        found = model.model_validate(given)
    except ValidationError as error:
        raise refused([*errors, *(_told(model, one) for one in error.errors(include_url=False))]) from None
    if errors:
        raise refused(errors)
    return found


def refused(errors: list[dict[str, str]]) -> Problem:
    """The error for parameters that are wrong."""
    said = "; ".join(f"{e['parameter']}: {e['problem']} (allowed: {e['allowed']})" for e in errors[:5])
    return Problem(400, f"{said}.", errors=errors[:50])


def _told(model: type[Filters], error: ErrorDetails) -> dict[str, str]:
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return _error(model, name, "is no parameter of this route")
    message = error["msg"].removeprefix("Value error, ")
    return _error(model, name, message[:1].lower() + message[1:])


def _error(model: type[Filters], name: str, problem: str) -> dict[str, str]:
    schema = properties(model)
    allowed = _allowed(schema[name]) if name in schema else ", ".join(schema) or "none"
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:_SHOWN])
    return {"parameter": shown, "problem": problem, "allowed": allowed}


def _allowed(schema: Mapping[str, Any]) -> str:
    return schema.get("allowed") or ", ".join(map(str, schema.get("enum", ())))


def properties(model: type[Filters]) -> dict[str, dict[str, Any]]:
    """The parameters' JSON schemas, by name."""
    found = _PROPERTIES.get(model)
    if found is None:
        given = model.model_json_schema(by_alias=True).get("properties", {})
        found = _PROPERTIES[model] = {name: _flat(schema) for name, schema in given.items()}
    return found


_PROPERTIES: dict[type[Filters], dict[str, dict[str, Any]]] = {}


def _flat(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's schema without the null that stands for its absence."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "default")}
    default = {"default": schema["default"]} if schema.get("default") is not None else {}
    return {**(kinds[0] if kinds else {}), **rest, **default}


def parameters(model: type[Filters]) -> list[dict[str, Any]]:
    """The parameters as OpenAPI has them."""
    required = model.model_json_schema(by_alias=True).get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": f"{schema.get('description', '')}. Allowed: {_allowed(schema)}",
            "schema": {key: value for key, value in schema.items() if key not in ("description", "allowed")},
        }
        for name, schema in properties(model).items()
    ]
