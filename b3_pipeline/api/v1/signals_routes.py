"""The routes that take signals in, delete one, and show those that are deleted. `GET /api/v1/signals` is in `routes`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from typing import Any

from fastapi import APIRouter
from psycopg import sql
from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.ideas import bodies
from b3_pipeline.api.paging import Listing
from b3_pipeline.api.problems import Problem
from b3_pipeline.api.service import Service
from b3_pipeline.api.store import StoreAway, StoreSlow
from b3_pipeline.api.v1 import answers, filters, routes, signals_models
from b3_pipeline.api.v1.errors import problems
from b3_pipeline.api.v1.figures import aware
from b3_pipeline.api.v1.filters import parameters, read
from b3_pipeline.api.v1.listing import SIGNALS_ACTIVE
from b3_pipeline.api.v1.signals_writing import written
from b3_pipeline.parsing.tp_capital import parse_moment
from b3_pipeline.quality.stored import Condition, one_of
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.signals import active, intake
from b3_pipeline.signals.active import DELETED, SIGNALS
from b3_pipeline.signals.intake import Batch, Judged
from b3_pipeline.sources.archive import ArchiveFailed

router = APIRouter(prefix="/api/v1", tags=["signals"])
#: How long a deletion waits for another.
PATIENCE_S = 5.0
#: Stored signals that one request is compared with: ten of each.
_MOST_STORED = 10 * intake.MOST
_COLUMNS = [column.name for column in SIGNALS.columns if column.compared]
_DELETED = Listing(DELETED.name, (*SIGNALS_ACTIVE.columns, "deleted_at"), SIGNALS_ACTIVE.keys)


@router.post(
    "/signals",
    summary="Hands in one signal, or a list of them",
    description="Each is judged by the rules of TP-Capital's files. 202: the accepted ones are safe in the raw archive, as "
    "the entry that is named, and are in the table some seconds later. 200: nothing is new, all were there. 400: no signal "
    "could be accepted. The same request once more changes nothing. While QuestDB is away signals are accepted as well; "
    "one that turns out to be stored with other values is then rejected at its load, and lies in the quarantine. 503: QuestDB "
    "is slow or the archive is held, and nothing was taken. A token in "
    "any text is hidden before anything is kept. Needs a key.",
    status_code=202,
    response_model=signals_models.Intake,
    responses={
        200: {"description": "Nothing is new", "model": signals_models.Intake},
        **problems(400, 403, 415, 503),
    },
    openapi_extra={"requestBody": signals_models.signals_body()},
)
async def post_signals(request: Request) -> Response:
    service: Service = request.app.state.service
    bodies.require_json(request)
    try:
        batch = await asyncio.to_thread(intake.read, await request.body())
    except intake.BadBatch as error:
        raise Problem(400, str(error)) from None
    found = await asyncio.to_thread(intake.judged, batch, await _stored(service, batch))
    try:
        entry = await service.writers.run(lambda: intake.keep(service.archive, batch, found, service.now()))
    except ArchiveFailed:
        raise Problem(503, "The archive cannot be written: nothing was taken. Ask again later.") from None
    counts = Counter(one.outcome for one in found)
    if counts["rejected"] == len(found):
        raise _all_rejected(found)
    document = signals_models.Intake(
        entry=entry,
        accepted=counts["accepted"],
        duplicate=counts["duplicate"],
        rejected=counts["rejected"],
        items=[signals_models.IntakeItem(**vars(one)) for one in found],
    )
    return Response(document.model_dump_json(), 202 if counts["accepted"] else 200, media_type=answers.MEDIA_TYPE)


def _all_rejected(found: list[Judged]) -> Problem:
    errors = [
        {"parameter": one.pointer or "", "problem": str(one.reason), "allowed": "see /api/v1/openapi.json"}
        for one in found[:50]
    ]
    said = "; ".join(f"{one['parameter'] or 'the signal'}: {one['problem']}" for one in errors[:5])
    return Problem(400, f"No signal can be accepted. {said}.", errors=errors)


async def _stored(service: Service, batch: Batch) -> list[dict[str, Any]]:
    """The stored signals that may have a key of the batch; none while QuestDB is away: their load settles it then.

    Raises StoreSlow where QuestDB is there and does not answer in time, Problem where too many may have.
    """
    if not batch.rows:
        return []
    where = reduce(Condition.__and__, (one_of(key, sorted({row[key] for row in batch.rows})) for key in SIGNALS.keys))
    query = named("select {columns} from {table} where ", columns=_COLUMNS, table=SIGNALS.name) + where.text
    try:
        stored = await service.store.rows(query + sql.SQL(" limit %s"), *where.values, _MOST_STORED + 1)
    except StoreSlow:
        raise
    except StoreAway:
        return []
    if len(stored) > _MOST_STORED:
        raise Problem(413, "Too many stored signals are like these: hand in fewer at once.")
    return stored


@router.delete(
    "/signals",
    summary="Deletes one signal: no reader sees it from then on",
    description="It is kept as it was, with the time of its deletion. Deleted once more it stays as it is, and so it does "
    "when the same signal comes in again. Needs a key.",
    response_model=signals_models.Deletion,
    responses=problems(400, 403, 404, 503),
    openapi_extra={"parameters": parameters(filters.SignalKeyFilters)},
)
async def delete_signal(request: Request) -> Response:
    service: Service = request.app.state.service
    given = read(filters.SignalKeyFilters, request)
    key = active.SignalKey(parse_moment(given.ts), given.channel, given.signal_type, given.asset)

    def delete(db: QuestDB) -> active.Deletion:
        return active.delete(db, key, service.settings.clock, service.settings.home, PATIENCE_S)

    try:
        done = await written(service, delete)
    except active.NoSuchSignal:
        raise Problem(404, "No signal has that key: GET /api/v1/signals shows the keys as they are.") from None
    document = signals_models.Deletion(
        deleted=done.now, signal=_deleted({**done.signal, "deleted_at": done.deleted_at})
    )
    return Response(document.model_dump_json(), media_type=answers.MEDIA_TYPE)


@router.get(
    "/signals/deleted",
    summary="Trading signals that somebody has deleted",
    description="Newest first, by when they were sent. Prices in BRL.",
    **routes.documented(signals_models.DeletedSignals, filters.SignalFilters),
)
async def get_deleted_signals(request: Request) -> Response:
    return await routes.paged_table(request, filters.SignalFilters, signals_models.DeletedSignals, _DELETED, _deleted)


def _deleted(row: Mapping[str, Any]) -> signals_models.DeletedSignal:
    rest = {name: value for name, value in row.items() if name in SIGNALS_ACTIVE.columns and name != "ts"}
    return signals_models.DeletedSignal(at=aware(row["ts"]), **rest, deleted_at=aware(row["deleted_at"]))
