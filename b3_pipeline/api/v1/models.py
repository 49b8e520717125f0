"""The documents of the current contract, with their units: what OpenAPI shows and the page is made of."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from b3_pipeline.postgres.mismatches import LONGEST_TEXT

#: The session that a value belongs to; the moment at which the desk could know it (UTC).
Session = Annotated[date, Field(description="Trading session, B3's calendar", examples=["2025-10-14"])]
Moment = Annotated[datetime, Field(description="UTC, ISO 8601", examples=["2025-10-14T12:00:32Z"])]
Feed = Annotated[str, Field(description="What brought the value", examples=["b3_sprd"])]
ContractMonth = Annotated[str, Field(description="Month code (X25) of futures", examples=["X25"])]


class Document(BaseModel):
    """A document that is answered: nothing in it changes any more."""

    model_config = ConfigDict(frozen=True)


class Kpi(Document):
    """One figure at the top of the page."""

    id: str = Field(examples=["dol_settlement"])
    label: str = Field(description="What the desk calls it, Portuguese", examples=["DOL ajuste"])
    value: float | None
    unit: str = Field(description="BRL/1000 USD, PU, points, % a.a., BRL/USD, %", examples=["BRL/1000 USD"])
    decimals: int = Field(ge=0, le=6, description="How many decimals are shown")
    previous: float | None = Field(
        description="The value of the session before, null where that is not known; of a settlement what the exchange "
        "compares with (for DI1 and DDI carried forward one day)"
    )
    change: float | None = Field(description="value − previous, in the same unit")
    contract_month: str | None = Field(default=None, description="Of a future: its contract")
    at: datetime | None = Field(description="When the desk could know it, UTC")
    session: date | None = Field(description="The session that it belongs to")
    age_s: float | None = Field(description="Seconds since `at`")
    feed: str | None
    fresh: bool | None = Field(description="Whether it is as new as it should be; null where nothing is expected")
    due: datetime | None = Field(description="When a newer one should be there, UTC")


class CurvePoint(Document):
    contract_month: ContractMonth
    expiry: date = Field(description="The contract's expiry: the first session of its month")
    rate: float = Field(description="% a year of 252 bank days")


class Curve(Document):
    """The DI curve of a session: rates by expiry, ascending. In an overview of the newest session that is there whole."""

    session: date
    points: list[CurvePoint]


class Settlement(Document):
    instrument: str = Field(examples=["DI1"])
    contract_month: ContractMonth
    price: float = Field(description="Settlement in the exchange's own unit: PU for DI1, points or BRL/1000 USD else")
    previous: float | None = Field(
        description="What the exchange compares with: the settlement before, for DI1 and DDI carried forward one day"
    )
    change: float | None = Field(description="price − previous")
    value_per_contract: float | None = Field(
        description="BRL a contract gains or loses: |change| × 1 (DI1), 50 (DOL), 10 (WDO), 0.2 (WIN), 1 (IND)"
    )
    rate: float | None = Field(
        description="% a year, base 252: the exchange's own where it gives one; of a DI1 without, computed from its PU"
    )
    open_interest: int | None
    session: date | None
    at: datetime
    feed: Feed


class Surface(Document):
    """Implied volatilities of dollar options (% a year) by tenor and delta; `values[i][j]` is tenor i, delta j."""

    at: datetime
    updated_at: date | None = Field(description="The day of the data, as its source says")
    feed: Feed
    tenors: list[str] = Field(description="`nov-25`, by date", examples=[["nov-25", "dez-25"]])
    deltas: list[int] = Field(description="Call deltas, ascending: 1 … 99")
    values: list[list[float | None]]


class GammaLevel(Document):
    instrument: str = Field(examples=["ES_SP500"])
    at: datetime
    call_wall: float | None
    put_wall: float | None
    gamma_flip: float | None
    status: str | None
    feed: Feed


class DxyPoint(Document):
    at: datetime
    bucket: str = Field(examples=["dxy_08h50"])
    value: float | None = Field(description="Change against the previous close, %; null: nothing was read then")


class Dxy(Document):
    session: date | None
    points: list[DxyPoint] = Field(description="One for each bucket that should be there by now, gaps as null")


class Dataset(Document):
    """How one table stands."""

    table: str
    label: str = Field(description="What the desk calls it, Portuguese")
    rows: int
    newest: datetime | None
    age_s: float | None
    due: datetime | None
    fresh: bool | None
    source: str = Field(description="Where its rows come from, Portuguese")
    checks_passed: int
    checks_failed: list[str] = Field(description="Names of the checks whose last result is red")
    dagster_url: str = Field(description="The asset's page in Dagster")


class KnownSettlement(Document):
    """A settlement as it was known at a moment: `session` is the one it belongs to, `at` when the desk could know it."""

    instrument: str = Field(examples=["DOL"])
    contract_month: ContractMonth
    price: float
    session: date | None
    at: datetime
    feed: Feed


class KnownLevels(Document):
    """Gamma levels as they were known at a moment."""

    instrument: str = Field(examples=["ES_SP500"])
    call_wall: float | None
    put_wall: float | None
    gamma_flip: float | None
    at: datetime
    feed: Feed


class KnownVolatility(Document):
    """The volatility at the money (% a year) of the front tenor, as it was known at a moment."""

    tenor: str = Field(examples=["nov-25"])
    value: float
    at: datetime
    feed: Feed


class KnownSignal(Document):
    """A signal that nobody has deleted, with what was known at its moment; prices in BRL."""

    at: Moment
    channel: str
    signal_type: str = Field(examples=["Day Trade"])
    asset: str = Field(description="B3's ticker", examples=["PETRK340"])
    kind: str | None = Field(description="future, option, share or other, as the ticker says")
    buy_min: float | None
    buy_max: float | None
    targets: list[float] = Field(description="In their order, those that are given")
    stop: float | None
    settlements: list[KnownSettlement] = Field(
        description="Of a future its own contract first; then the front contracts of DOL, DI1 and DDI"
    )
    gamma: list[KnownLevels]
    volatility: KnownVolatility | None


class Overview(Document):
    """Everything that the page needs. Between two changes of the data only `at` and the ages (`age_s`) grow."""

    at: datetime
    session: date = Field(description="The session of now, or the last one")
    phase: Literal["legacy", "shadow", "active", "frozen"]
    kpis: list[Kpi]
    di_curve: Curve | None
    di_curve_before: Curve | None
    settlements: list[Settlement] = Field(
        description="The contracts of each instrument's newest whole session; one that has a later price, with that one"
    )
    surface: Surface | None
    gamma: list[GammaLevel]
    dxy: Dxy
    datasets: list[Dataset]
    mismatches: int | None = Field(
        description="Payloads of the legacy contract that differed, and nobody has looked at; null where nobody can tell"
    )
    signals: list[KnownSignal] | None = Field(
        default=None,
        description="The last signals, newest first, out of the warehouse, which is loaded every quarter of an hour; null "
        "where there is none, or nobody can tell",
    )
    dagster_url: str


NextCursor = Annotated[
    str | None,
    Field(
        description="Give it back as `cursor`, with the same other parameters, for what is older; null: there is no more"
    ),
]


class Snapshot(Document):
    """The price of a front contract in a capture."""

    at: Moment
    session: date = Field(description="The session that the settlement belongs to: before 18:00 local the one before")
    instrument: str = Field(examples=["DOL"])
    contract_month: ContractMonth
    price: float | None = Field(description="PU for DI1, points for DDI, BRL/1000 USD for DOL", examples=[5528.504])
    previous: float | None = Field(description="The settlement before, in the same unit", examples=[5530.704])
    change: float | None = Field(description="price − previous")
    status: str | None = Field(description="The capture's status", examples=["sucesso"])
    source: str | None = Field(description="The capture's source (`fonte`)", examples=["B3"])
    feed: Feed


class Snapshots(Document):
    items: list[Snapshot]
    next_cursor: NextCursor


class Indicator(Document):
    """A financial indicator of a capture, under the capture's own label."""

    at: Moment
    name: str = Field(description="The capture's label, verbatim", examples=["TAXA SELIC - (a.a.)"])
    indicator: str = Field(description="Its short name", examples=["taxa_selic"])
    value: float | None = Field(
        description="% a year for rates, BRL/USD for dolar_cupom_limpo, BRL/1000 USD for dif_oper_casada",
        examples=[14.9],
    )
    display_value: str | None = Field(description="The value as the source wrote it, pt-BR", examples=["14,90"])
    updated_at: date | None = Field(description="The day that its source says")
    feed: Feed


class Indicators(Document):
    items: list[Indicator]
    next_cursor: NextCursor


class DailyIndicator(Document):
    """A financial indicator of a session."""

    at: Moment
    indicator: str = Field(examples=["taxa_selic"])
    value: float | None = Field(
        description="% a year for rates, BRL/USD for dolar_cupom_limpo, BRL/1000 USD for dif_oper_casada",
        examples=[14.9],
    )
    feed: Feed


class DailyIndicators(Document):
    items: list[DailyIndicator]
    next_cursor: NextCursor


class Smile(Document):
    """One tenor of a surface of dollar options, whole: `volatilities[i]` belongs to `deltas[i]`."""

    at: Moment
    updated_at: date | None = Field(description="The day of the data, as its source says")
    tenor: str = Field(examples=["nov-25"])
    contract_month: ContractMonth
    deltas: list[int] = Field(description="Call deltas, %, ascending as numbers", examples=[[1, 5, 10, 25]])
    volatilities: list[float | None] = Field(
        description="Implied volatility, % a year, base 252", examples=[[21.4, 18.29, 17.43, 14.82]]
    )
    feed: Feed


class Smiles(Document):
    items: list[Smile] = Field(description="Newest surface first; in each the tenors by date")
    next_cursor: NextCursor


class GammaLevels(Document):
    items: list[GammaLevel]
    next_cursor: NextCursor


class Adjustment(Settlement):
    """The settlement (ajuste) of a contract."""

    status: str | None = Field(description="migrado or ajustado", examples=["ajustado"])


class Adjustments(Document):
    items: list[Adjustment]
    next_cursor: NextCursor


class DxyTick(Document):
    """The dollar index at a fixed local time."""

    at: Moment
    bucket: str = Field(description="The local time of the reading", examples=["dxy_08h50"])
    value: float | None = Field(description="Change against the previous close, %", examples=[-0.49])
    status: str | None = Field(examples=["sucesso"])
    provider: str | None = Field(examples=["yahoo"])
    feed: Feed


class DxyTicks(Document):
    items: list[DxyTick]
    next_cursor: NextCursor


class Load(Document):
    """A payload into a table: candidates = loaded + rejected + duplicate + absent."""

    at: Moment = Field(description="When it began, UTC")
    load_id: int
    run_id: str | None = Field(description="The Dagster run, or the sensor's turn, that it belonged to")
    table: str = Field(examples=["b3_adjustments"])
    feed: Feed
    file: str | None = Field(description="Name of the file or archive entry", examples=["ajustes_b3.csv"])
    sha256: str | None = Field(description="Of the payload, hex")
    candidates: int
    loaded: int = Field(description="Records written, revised ones included")
    rejected: int = Field(description="Records in quarantine")
    duplicate: int = Field(description="Records that were there already, equal")
    absent: int = Field(description="Records whose value the source does not give")
    revised: int = Field(description="Loaded records that replaced another value")
    bytes: int = Field(description="Size of the payload")
    seconds: float = Field(description="How long the load took")
    outcome: str = Field(description="started, partial, loaded or rejected", examples=["loaded"])


class Loads(Document):
    items: list[Load]
    next_cursor: NextCursor


class FeedFreshness(Document):
    """What a live source brings into a table."""

    feed: Feed
    newest: datetime | None = Field(description="Its newest row, UTC")
    expected: datetime = Field(description="The moment that its newest row should have reached by now, UTC")
    due: datetime = Field(description="When more is due, UTC")
    fresh: bool


class TableFreshness(Dataset):
    feeds: list[FeedFreshness]


class Freshness(Document):
    at: Moment
    tables: list[TableFreshness]


class FieldDifference(Document):
    pointer: str = Field(description="JSON pointer", examples=["/DOL/preco"])
    legacy: Any = Field(description="What the legacy capture has there; null where it has nothing")
    composed: Any
    kind: Literal["expected", "different", "missing", "extra"]


class CaptureComparison(Document):
    """A legacy capture against the one that we composed of our own sources."""

    at: Moment
    session: date
    legacy_sha256: str
    composed_sha256: str
    fields: int = Field(description="Fields that either has")
    different: int = Field(description="Fields that differ and should not")
    differences: list[FieldDifference]


class BodyDifference(Document):
    pointer: str = Field(description="JSON pointer", examples=["/DOL/preco"])
    legacy: Any = Field(default=None, description="What the legacy answer has there")
    ours: Any = None


class PayloadMismatch(Document):
    """An answer of the legacy contract that was not the legacy server's: both bodies, and how often it was met."""

    id: int
    at: Moment = Field(description="When it was met first, UTC")
    last_at: datetime | None = Field(default=None, description="When it was met last, UTC")
    endpoint: str = Field(examples=["ultimo-dado"])
    count: int
    differences: list[BodyDifference]
    legacy: str = Field(description="The legacy side's body, its beginning where it is long")
    ours: str | None = Field(description="Our body; null: we had no such document")
    ignored_by: list[str] = Field(default=[], description="The rules that explain all of it")
    seen_at: datetime | None = Field(default=None, description="When somebody looked at it, UTC")
    seen_by: str | None = None
    seen_why: str | None = None


class Seen(BaseModel):
    """Who has looked at a mismatch, and why it may stand: a line each."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"who": "desk", "why": "a known rounding"}]}
    )

    who: str = Field(min_length=1, max_length=LONGEST_TEXT)
    why: str = Field(min_length=1, max_length=LONGEST_TEXT)


class ParityCheck(Document):
    table: str
    check: str = Field(examples=["parity_legacy_csv"])
    passed: bool = Field(description="How it ended the last time")


class ParityPartition(Document):
    """What was wrong in a partition: counts are exact, rows the first ones."""

    partition: date = Field(description="The session of the rows' local day")
    missing: int = Field(description="Keys of the source that the table does not have")
    extra: int = Field(description="Keys of the table that no source has")
    different: int = Field(description="Keys with another value")
    rows: list[dict[str, Any]] = Field(
        description="Problem and key; of another value the column and both values; file and line where a source has it"
    )


class ParityFeed(Document):
    table: str = Field(examples=["b3_adjustments"])
    feed: str = Field(examples=["legacy_csv"])
    passed: bool
    source_keys: int
    table_keys: int
    missing: int
    extra: int
    different: int
    rejected: int = Field(description="Records of the source that may not be stored")
    expired: int = Field(description="Keys that a retention has taken away")
    partitions: list[ParityPartition] = Field(description="Where something is wrong, oldest first")


class ParityReport(Document):
    """The tables against their sources, as the last `b3 validate` or run of the job `parity` found them."""

    at: Moment
    ok: bool = Field(description="Whether every check of severity ERROR passed")
    feeds: list[ParityFeed]


class Parity(Document):
    phase: Literal["legacy", "shadow", "active", "frozen"]
    mismatches: int = Field(description="Payloads of the legacy contract that differed, and nobody has looked at")
    payloads: list[PayloadMismatch] = Field(description="The newest of them, newest first")
    captures: list[CaptureComparison] = Field(description="The newest comparisons, newest first")
    checks: list[ParityCheck] = Field(description="The tables against their sources")
    report: ParityReport | None = Field(description="The last proof of all tables, down to the keys; null: none yet")


class PhaseChange(Document):
    phase: str
    since: datetime | None = Field(description="UTC; null: nobody has set it yet")
    who: str | None
    why: str | None


class CutoverGate(Document):
    name: str
    ok: bool
    evidence: str = Field(description="What was found")
    what_to_do: str = Field(description="What makes it green; empty when it is")


class CutoverLook(Document):
    """The gates of the next step as they were when `b3 cutover` last looked: this service does not look itself."""

    at: Moment
    to: Literal["shadow", "active", "frozen"]
    gates: list[CutoverGate]


class Cutover(Document):
    phase: Literal["legacy", "shadow", "active", "frozen"]
    since: datetime | None = Field(description="UTC; null: nobody has set it yet")
    who: str | None
    why: str | None
    stale: bool = Field(description="PostgreSQL is away, and this is the last known phase")
    history: list[PhaseChange] | None = Field(description="Newest first; null while PostgreSQL is away")
    looked: CutoverLook | None = Field(description="Null: nobody has looked at the gates in this phase yet")


class Signal(Document):
    """A trading signal that nobody has deleted; prices in BRL."""

    at: Moment
    channel: str
    signal_type: str = Field(examples=["Swing Trade"])
    asset: str = Field(examples=["PETRJ370"])
    buy_min: float | None
    buy_max: float | None
    target_1: float | None
    target_2: float | None
    target_final: float | None
    stop: float | None
    raw_message: str | None
    source: str | None


class Signals(Document):
    items: list[Signal]
    next_cursor: NextCursor


class Health(Document):
    """Whether the service lives and what it reaches."""

    status: Literal["ok", "degraded"] = Field(description="degraded: something is away, see which")
    at: Moment
    version: str = Field(examples=["0.1.0"])
    phase: Literal["legacy", "shadow", "active", "frozen"]
    questdb: bool = Field(description="Whether QuestDB answers and has the market tables")
    postgres: bool = Field(description="Whether PostgreSQL answers")


class ParameterError(Document):
    parameter: str = Field(examples=["limit"])
    problem: str = Field(examples=["must be less than or equal to 1000"])
    allowed: str = Field(examples=["a whole number from 1 to 1000"])


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Bad request"])
    status: int = Field(examples=[400])
    detail: str = Field(
        examples=["limit: must be less than or equal to 1000 (allowed: a whole number from 1 to 1000)."]
    )
    success: Literal[False] = Field(default=False, description="What the clients of the ideas look at")
    instance: str | None = Field(default=None, description="The request's correlation id")
    errors: list[ParameterError] | None = Field(default=None, description="Each parameter that was wrong")
