"""The composed capture, from phase shadow on: made into the archive when it is due, and compared with the legacy one."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg

from b3_pipeline import capture_differences, composing
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.turns import counted
from b3_pipeline.parsing.capture import capture_moment
from b3_pipeline.parsing.kinds import CAPTURE, COMPOSED
from b3_pipeline.postgres import comparisons
from b3_pipeline.sessions import session_of, to_local
from b3_pipeline.sources.archive import Archive, Entry


def make(store: Store, now: datetime) -> Entry | None:
    """Composes a capture of this moment (aware UTC) into the archive if one is due; None when it is not."""
    last = store.archive.newest(COMPOSED.name)
    with store.database() as db:
        inputs = composing.read_inputs(db, now)
    if not composing.when_due(now, last.at if last else None, inputs.newest):
        return None
    composed = composing.compose(now, inputs)
    if composed is None:
        return None
    return store.archive.append(
        COMPOSED.name, composed.data(), name=COMPOSED.file, at=now, session=session_of(to_local(now).date())
    )


def pairs(archive: Archive, after: int) -> Iterator[tuple[Entry, Entry | None]]:
    """Each legacy capture after an entry, with the composed one that stood when it was taken, of the same session.

    Where none stood yet, the first one that came; None where there is none so far. When a legacy capture was taken is
    its own to say: it may be archived much later.
    """
    composed = list(archive.after(COMPOSED.name, max(0, archive.last(COMPOSED.name) - 100)))
    for legacy in archive.after(CAPTURE.name, after):
        taken = _taken(archive, legacy)
        mine = [entry for entry in composed if _session(entry.at) == _session(taken)]
        stood = [entry for entry in mine if entry.at <= taken]
        yield legacy, stood[-1] if stood else next(iter(mine), None)


def _taken(archive: Archive, legacy: Entry) -> datetime:
    """When a legacy capture was taken (aware UTC); of one that does not say so, when it came."""
    moment = capture_moment(archive.read(legacy))
    return legacy.at if moment is None else moment.replace(tzinfo=UTC)


def _session(moment: datetime) -> date:
    return session_of(to_local(moment).date())


def compare(store: Store, after: int, now: datetime) -> int:
    """Compares the legacy captures that came after an entry, and keeps what differs; returns the last one done.

    One of today waits for a composed one; an older one without is passed over.
    """
    today = _session(now)
    for legacy, composed in pairs(store.archive, after):
        if composed is None and _session(_taken(store.archive, legacy)) == today:
            break
        if composed is not None:
            _keep(store, legacy, composed)
        after = legacy.seq
    return after


def _keep(store: Store, legacy: Entry, composed: Entry) -> None:
    try:
        found = capture_differences.compare(composed.at, *map(store.archive.read, (legacy, composed)))
    except capture_differences.NoCapture:  # its sensor rejects it, and says so
        return
    if dsn := store.postgres_dsn:
        comparisons.record(dsn, found)


@dg.sensor(
    name="compose_capture",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "From phase shadow on: composes a capture of the newest stored values at 09:00 and whenever one of them changes, "
        "and compares it field by field with the legacy one. The cursor is the last legacy capture that was compared."
    ),
)
@counted
def compose_sensor(
    context: dg.SensorEvaluationContext, store: dg.ResourceParam[Store]
) -> dg.SensorResult | dg.SkipReason:
    phase = store.flags.phase()
    if phase == "legacy":
        return dg.SkipReason("The phase is legacy: composing begins in shadow (`b3 cutover advance`).")
    now = store.settings.clock().astimezone(UTC)
    made = make(store, now)
    before = int(context.cursor or store.archive.last(CAPTURE.name))
    after = compare(store, before, now)
    if made is None and str(after) == context.cursor:
        return dg.SkipReason("Nothing is due, and there is nothing to compare.")
    return dg.SensorResult(cursor=str(after))
