"""The routes of `/api/v1`. Each reads its parameters, asks through the shared answers, and says how old the answer is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.paging import Listing, Position, to_cursor
from b3_pipeline.api.problems import Problem
from b3_pipeline.api.service import Service
from b3_pipeline.api.store import ANSWER_S, StoreAway
from b3_pipeline.api.v1 import answers, filters, listing, models, overview
from b3_pipeline.api.v1.errors import RETRY_AFTER_S, problems
from b3_pipeline.api.v1.figures import aware
from b3_pipeline.api.v1.filters import Filters, Newest, OfDomain, Paged, parameters, read
from b3_pipeline.cutover import looked
from b3_pipeline.errors import B3Error
from b3_pipeline.postgres import comparisons, flags, mismatches
from b3_pipeline.quality import parity_report
from b3_pipeline.tables import MARKET_TABLES, Table

router = APIRouter(prefix="/api/v1")
_VERSION = version("b3-pipeline")
_PARITY = "parity_"
#: Who asks whether the service lives waits no longer for the database.
_HEALTH_S = 0.3
#: A body and its entity tag.
_Bytes = tuple[bytes, str]


def _service(request: Request) -> Service:
    return request.app.state.service


def documented(answered: type[BaseModel], asked: type[Filters]) -> dict[str, Any]:
    """What OpenAPI says of a route whose answers are shared: parameters, answer, errors."""
    unchanged = {304: {"description": "Nothing has changed since: `If-None-Match` names the answer's `ETag`"}}
    return {
        "openapi_extra": {"parameters": parameters(asked)},
        "response_model": answered,
        "responses": {**unchanged, **problems(400, 503)},
    }


async def _given(request: Request, question: Hashable, make: Callable[[], Awaitable[_Bytes]]) -> Response:
    """The answer to a question, shared with all who ask the same at once. Raises StoreAway, Problem."""
    answer = await _service(request).shared.get(("v1", question), make)
    body, tag = answer.value
    return answers.answer(body, tag, request.headers.get("if-none-match"), answers.aged(answer))


def _rendered(document: BaseModel) -> _Bytes:
    body = document.model_dump_json().encode()
    return body, answers.tag_of(body)


async def _shared(request: Request, question: Hashable, ask: Callable[[], Awaitable[BaseModel]]) -> Response:
    """The document of a question. Raises StoreAway, Problem."""

    async def make() -> _Bytes:
        return await asyncio.to_thread(_rendered, await ask())

    return await _given(request, question, make)


async def _listed(
    request: Request,
    given: Paged,
    result: type[BaseModel],
    ask: Callable[[], Awaitable[tuple[list[Any], Position | None]]],
) -> Response:
    """A page of a table. Raises StoreAway, Problem."""

    async def make() -> _Bytes:
        async with _turn(_service(request).pages):
            items, last = await ask()
            cursor = to_cursor(last, given.question()) if last else None
            return await asyncio.to_thread(lambda: _rendered(result(items=items, next_cursor=cursor)))

    return await _given(request, (given.question(), given.limit, given.cursor), make)


@asynccontextmanager
async def _turn(pages: asyncio.Semaphore) -> AsyncIterator[None]:
    """Waits until a page may be made; no longer than for an answer of the database. Raises StoreAway."""
    try:
        async with asyncio.timeout(ANSWER_S):
            await pages.acquire()
    except TimeoutError:
        raise StoreAway("Too many pages are asked for at once.") from None
    try:
        yield
    finally:
        pages.release()


async def paged_table(
    request: Request,
    model: type[Paged],
    result: type[BaseModel],
    listed: Listing,
    document: Callable[[Any], Any],
) -> Response:
    """A page of a table or view, as its filters ask. Raises StoreAway, Problem."""
    given = read(model, request)
    store = _service(request).store
    return await _listed(request, given, result, lambda: listing.table_page(store, listed, given, document))


@router.get(
    "/overview",
    summary="Everything that the page needs, in one answer",
    description="KPIs, DI curve, settlements, surface, gamma levels, dollar index, datasets and phase. Prices in the "
    "exchange's units, rates in % a year. `ETag` covers all but `at` and the ages: two answers with one tag differ in "
    "these alone, which whoever holds one can count on; so `If-None-Match` gives 304 until data changes.",
    tags=["page"],
    **documented(models.Overview, Filters),
)
async def get_overview(request: Request) -> Response:
    if request.scope["query_string"]:
        read(Filters, request)
    headers = request.headers
    return await overview.response(_service(request), headers.get("if-none-match"), headers.get("accept-encoding", ""))


@router.get(
    "/snapshots",
    summary="Prices of the front contracts, capture by capture",
    description="Newest first. DI1 in PU, DDI in points, DOL in BRL/1000 USD.",
    tags=["market data"],
    **documented(models.Snapshots, filters.SnapshotFilters),
)
async def get_snapshots(request: Request) -> Response:
    return await paged_table(request, filters.SnapshotFilters, models.Snapshots, listing.SNAPSHOTS, listing.snapshot)


@router.get(
    "/indicators",
    summary="Financial indicators, capture by capture",
    description="Newest first, under the capture's own labels. Rates in % a year, dollar in BRL/USD.",
    tags=["market data"],
    **documented(models.Indicators, filters.IndicatorFilters),
)
async def get_indicators(request: Request) -> Response:
    return await paged_table(
        request, filters.IndicatorFilters, models.Indicators, listing.INDICATORS, listing.indicator
    )


@router.get(
    "/indicators/daily",
    summary="Financial indicators, session by session",
    description="Newest first. Rates in % a year, dollar in BRL/USD.",
    tags=["market data"],
    **documented(models.DailyIndicators, filters.DailyIndicatorFilters),
)
async def get_daily_indicators(request: Request) -> Response:
    model = filters.DailyIndicatorFilters
    return await paged_table(request, model, models.DailyIndicators, listing.DAILY, listing.daily_indicator)


@router.get(
    "/vol-surface",
    summary="Implied volatility of dollar options, tenor by tenor",
    description="Newest surface first, in each the tenors by date, deltas ascending as numbers. % a year, base 252. "
    "`limit` counts tenors; a tenor always comes with all its deltas.",
    tags=["market data"],
    **documented(models.Smiles, filters.SurfaceFilters),
)
async def get_vol_surface(request: Request) -> Response:
    given = read(filters.SurfaceFilters, request)
    store = _service(request).store
    return await _listed(request, given, models.Smiles, lambda: listing.surface_page(store, given))


@router.get(
    "/gamma-levels",
    summary="Gamma walls and flip of the S&P 500 future and the VIX",
    description="Newest first. Index points.",
    tags=["market data"],
    **documented(models.GammaLevels, filters.GammaFilters),
)
async def get_gamma_levels(request: Request) -> Response:
    from b3_pipeline.api.v1.figures import gamma_level

    return await paged_table(request, filters.GammaFilters, models.GammaLevels, listing.GAMMA, gamma_level)


@router.get(
    "/adjustments",
    summary="Settlement prices (ajustes) of futures",
    description="Newest first. DI1 in PU, DOL and WDO in BRL/1000 USD, all others in points; rates in % a year, base 252.",
    tags=["market data"],
    **documented(models.Adjustments, filters.AdjustmentFilters),
)
async def get_adjustments(request: Request) -> Response:
    model = filters.AdjustmentFilters
    return await paged_table(request, model, models.Adjustments, listing.ADJUSTMENTS, listing.adjustment)


@router.get(
    "/dxy",
    summary="The dollar index at fixed local times",
    description="Newest first. Change against the previous close in %, not a level.",
    tags=["market data"],
    **documented(models.DxyTicks, filters.DxyFilters),
)
async def get_dxy(request: Request) -> Response:
    return await paged_table(request, filters.DxyFilters, models.DxyTicks, listing.DXY, listing.dxy_tick)


@router.get(
    "/loads",
    summary="What was loaded: one item for each payload into each table",
    description="Newest first. candidates = loaded + rejected + duplicate + absent.",
    tags=["operation"],
    **documented(models.Loads, filters.LoadFilters),
)
async def get_loads(request: Request) -> Response:
    return await paged_table(request, filters.LoadFilters, models.Loads, listing.LOADS, listing.load)


@router.get(
    "/signals",
    summary="Trading signals that nobody has deleted",
    description="Newest first. Prices in BRL.",
    tags=["signals"],
    **documented(models.Signals, filters.SignalFilters),
)
async def get_signals(request: Request) -> Response:
    return await paged_table(request, filters.SignalFilters, models.Signals, listing.SIGNALS_ACTIVE, listing.signal)


@router.get(
    "/freshness",
    summary="How old each market table is, and when more is due",
    description="Ages in seconds, moments in UTC; the checks are those of Dagster, as they ended the last time.",
    tags=["operation"],
    **documented(models.Freshness, Filters),
)
async def get_freshness(request: Request) -> Response:
    read(Filters, request)
    service = _service(request)
    return await _shared(request, "freshness", lambda: _freshness(service))


async def _freshness(service: Service) -> models.Freshness:
    board, now = overview.board(service), service.now()
    beside = await board.beside()
    counts = await board.feeds(await board.stamps(now), now)

    def of_table(table: Table) -> models.TableFreshness:
        feeds = {name: (feed.rows, feed.newest) for name, feed in counts[table.name].items()}
        found = beside.freshness(table, feeds, now)
        return models.TableFreshness(
            **board.dataset_fields(table, found, counts[table.name], beside),
            feeds=[
                models.FeedFreshness(
                    feed=one.feed,
                    newest=one.newest and aware(one.newest),
                    expected=aware(one.expected),
                    due=aware(one.due),
                    fresh=one.fresh,
                )
                for one in found.feeds
            ],
        )

    return models.Freshness(at=now, tables=[of_table(table) for table in MARKET_TABLES])


@router.get(
    "/parity",
    summary="Whether ours equals theirs: payloads, captures, tables",
    description="The payloads of the legacy contract that differed, the comparisons of legacy and composed captures, and "
    "how the tables' parity checks ended the last time; each list newest first. `report` leads from a table and feed down to "
    "partitions and the first keys with both values.",
    tags=["cutover"],
    **documented(models.Parity, Newest),
)
async def get_parity(request: Request) -> Response:
    given = read(Newest, request)
    service = _service(request)
    return await _shared(request, ("parity", given.limit), lambda: _parity(service, given.limit))


async def _parity(service: Service, limit: int) -> models.Parity:
    board = overview.board(service)
    beside = await board.beside()
    captures, payloads, differed, report = await asyncio.gather(
        _of_postgres(service, lambda dsn: comparisons.latest(dsn, limit)),
        _payload_mismatches(service, limit),
        _of_postgres(service, mismatches.open_count),
        asyncio.to_thread(_parity_report, service.settings.home),
    )
    return models.Parity(
        phase=service.phase,  # pyright: ignore[reportArgumentType] (a flag has no other)
        mismatches=differed,
        payloads=payloads,
        captures=[
            models.CaptureComparison(
                at=one.at,
                session=one.session,
                legacy_sha256=one.legacy_sha256,
                composed_sha256=one.composed_sha256,
                fields=one.fields,
                different=one.different,
                differences=[
                    models.FieldDifference(pointer=d.pointer, legacy=d.legacy, composed=d.composed, kind=d.kind)
                    for d in one.differences
                ],
            )
            for one in captures
        ],
        checks=[
            models.ParityCheck(table=table, check=check, passed=passed)
            for table, checks in sorted(beside.checks.items())
            for check, passed in sorted(checks.items())
            if check.startswith(_PARITY)
        ],
        report=report,
    )


def _parity_report(home: Path) -> models.ParityReport | None:
    proof = parity_report.proof(home)
    if proof is None:
        return None
    feeds = [models.ParityFeed.model_validate({**vars(one), **one.numbers}) for one in proof.feeds]
    return models.ParityReport(at=proof.at, ok=proof.ok, feeds=feeds)


@router.post(
    "/parity/{mismatch}/seen",
    summary="Somebody has looked at a payload that differed, and says why it may stand",
    description="It is then no longer counted as open. Who marked it first stays. Needs a key.",
    status_code=204,
    responses=problems(400, 403, 404, 503),
    tags=["cutover"],
)
async def post_seen(request: Request, mismatch: int, seen: models.Seen) -> Response:
    service = _service(request)

    def mark(dsn: str) -> None:
        mismatches.mark_seen(dsn, mismatch, seen.who, seen.why, service.now())

    try:
        await _of_postgres(service, mark)
    except mismatches.NoMismatch as error:
        raise Problem(404, str(error)) from error
    except mismatches.NotSeen as error:
        raise Problem(400, str(error)) from error
    return Response(status_code=204)


async def _payload_mismatches(service: Service, limit: int) -> list[models.PayloadMismatch]:
    try:
        found = await service.mismatch_list(limit)
    except B3Error as error:
        raise StoreAway("PostgreSQL does not answer.") from error
    return [models.PayloadMismatch(**{name: _text(value) for name, value in one.items()}) for one in found[:limit]]


def _text(value: Any) -> Any:
    """A body as text: whatever somebody's server sent."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


async def _of_postgres(service: Service, ask: Callable[[str], Any]) -> Any:
    """What PostgreSQL says, asked off the event loop. Raises StoreAway: the answer is then the last known one."""
    try:
        if service.postgres_dsn is None:
            raise StoreAway("PostgreSQL does not answer.")
        return await asyncio.to_thread(ask, service.postgres_dsn)
    except mismatches.NotSeen:
        raise
    except (B3Error, psycopg.Error) as error:
        raise StoreAway("PostgreSQL does not answer.") from error


@router.get(
    "/cutover",
    summary="The phase: who is in charge of the market data, or of the ideas, since when, and why",
    description="legacy: the legacy collectors, or LowDB's files; shadow: both, compared; active: this service, or the tables; "
    "frozen: these alone.",
    tags=["cutover"],
    **documented(models.Cutover, OfDomain),
)
async def get_cutover(request: Request) -> Response:
    given = read(OfDomain, request)
    service = _service(request)
    question = ("cutover", given.domain, given.limit)
    return await _shared(request, question, lambda: _cutover(service, given.domain, given.limit))


async def _cutover(service: Service, domain: str, limit: int) -> models.Cutover:
    now = service.flags.entries[domain, flags.PHASE.name]
    try:
        entries = await _of_postgres(service, lambda dsn: flags.history(dsn, limit, domain, flags.PHASE.name))
        history = [models.PhaseChange(phase=one.value, since=one.since, who=one.who, why=one.why) for one in entries]
    except StoreAway:
        history = None
    found = await asyncio.to_thread(looked.latest, service.settings.home, domain)
    return models.Cutover(
        phase=now.value,  # pyright: ignore[reportArgumentType] (a flag has no other)
        since=now.since,
        who=now.who,
        why=now.why,
        stale=service.flags.stale or history is None,
        history=history,
        looked=_looked(found) if found and found.phase == now.value else None,
    )


def _looked(found: looked.Looked) -> models.CutoverLook:
    gates = [
        models.CutoverGate(name=gate.name, ok=gate.ok, evidence=gate.public, what_to_do=gate.what_to_do)
        for gate in found.gates
    ]
    return models.CutoverLook(at=found.at, to=found.to, gates=gates)  # pyright: ignore[reportArgumentType]


@router.get(
    "/health",
    summary="Whether the service lives, and what it reaches",
    description="200 for as long as the process lives; `status` says whether something is away.",
    response_model=models.Health,
    responses=problems(400),
    tags=["health"],
)
async def get_health(request: Request) -> Response:
    read(Filters, request)
    found = await _health(_service(request), _HEALTH_S)
    return Response(found.model_dump_json(), media_type=answers.MEDIA_TYPE, headers={"Cache-Control": "no-store"})


@router.get(
    "/health/ready",
    summary="Whether the service can answer",
    description="200 when QuestDB answers and has the market tables, else 503.",
    response_model=models.Health,
    responses=problems(400, 503),
    tags=["health"],
)
async def get_ready(request: Request) -> Response:
    read(Filters, request)
    found = await _health(_service(request), ANSWER_S)
    if not found.questdb:
        headers = {"Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"}
        raise Problem(503, "QuestDB does not answer, or lacks tables.", headers, retry_after_s=RETRY_AFTER_S)
    return Response(found.model_dump_json(), media_type=answers.MEDIA_TYPE, headers={"Cache-Control": "no-store"})


async def _health(service: Service, wait_s: float) -> models.Health:
    there = await _has_tables(service, wait_s)
    known = not service.flags.stale
    return models.Health(
        status="ok" if there and known else "degraded",
        at=service.now(),
        version=_VERSION,
        phase=service.phase,  # pyright: ignore[reportArgumentType] (a flag has no other)
        questdb=there,
        postgres=known,
    )


async def _has_tables(service: Service, wait_s: float) -> bool:
    """Whether QuestDB answers within so long and has the market tables; asked at most as often as anything that is shared."""

    async def ask() -> bool:
        rows = await service.store.rows("select table_name from tables()")
        return {table.name for table in MARKET_TABLES} <= {row["table_name"] for row in rows}

    try:
        async with asyncio.timeout(wait_s):
            answer = await service.shared.get(("v1", "tables"), ask)
    except (StoreAway, TimeoutError):
        return False
    return answer.value and not (answer.stale or answer.late)
