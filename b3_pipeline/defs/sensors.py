"""Sensors: one a source loads what is new in its archive within the tick, and reports it without a run."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from b3_pipeline.defs.alerting import alerts_sensor
from b3_pipeline.defs.composed import compose_sensor
from b3_pipeline.defs.evaluations import evaluations, freshness
from b3_pipeline.defs.reported import counts_of, loads_of, sessions_of_loads
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.turns import counted
from b3_pipeline.loading.archived import Drained, SourceBusy, drain, following
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.sources.catalog import SOURCES, Source
from b3_pipeline.tables import TABLES, Table

#: The daemon looks at its sensors every 5 s; asking for less lets none of its turns go by.
TURN_S = 1
#: A tick that takes 60 s is given up by Dagster with all that it did. Loading stops well before, for the last entry, its
#: checks and the report come on top; the next turn reads on.
BUDGET_S = 20.0
#: How long a tick waits for another process that loads into its table, and for QuestDB to show rows: well within 60 s.
PATIENCE_S = 10.0
#: How often the freshness of a table is told though it is as it was, so that its check does not look forgotten.
TELL_AGAIN_S = 1_800


def position(cursor: str | None) -> int:
    """The entry up to which all is loaded, out of a sensor's cursor; 0 before the first, and for one that is no number."""
    return int(cursor) if cursor and cursor.isdecimal() else 0


def load_sensor(source: Source) -> dg.SensorDefinition:
    """The sensor that loads a source's payloads, in their order, as the collector brings them."""

    @dg.sensor(
        name=f"load_{source.name}",
        minimum_interval_seconds=TURN_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Loads {source.what}, from the raw archive into {', '.join(source.kind.tables)}. The cursor is the number of "
            "the last entry that is loaded; set back, everything after it is read again, and nothing is loaded twice."
        ),
    )
    @counted
    def load(context: dg.SensorEvaluationContext, store: dg.ResourceParam[Store]) -> dg.SensorResult | dg.SkipReason:
        after = position(context.cursor)
        if following(store.archive, source.name, after) is not None:
            try:
                return _loaded(context, store, source, after)
            except SourceBusy as busy:
                return dg.SkipReason(str(busy))
        return dg.SkipReason(f"Nothing new: entry {after} of {source.name} is the archive's last.")

    return load


def _loaded(context: dg.SensorEvaluationContext, store: Store, source: Source, after: int) -> dg.SensorResult:
    started = time.monotonic()
    run_id = f"sensor {context.sensor_name}"
    with store.loader(run_id, complain=context.log.error, patience_s=PATIENCE_S) as loader:
        drained = drain(loader, store.archive, source.name, after, lambda: time.monotonic() - started > BUDGET_S)
        if drained.problem is not None and drained.seq <= after:
            raise dg.Failure(f"{drained.problem} It is tried again at each turn; what follows waits for it.")
        events = list(_events(context.instance, loader, store, source, drained))
    if drained.problem is not None:
        context.log.error(drained.problem)
    return dg.SensorResult(asset_events=events, cursor=str(drained.seq))


def _events(
    instance: dg.DagsterInstance, loader: Loader, store: Store, source: Source, drained: Drained
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    for table in (TABLES[name] for name in source.kind.tables):
        # also those that an earlier tick loaded, and ended before it could report them
        mine = [r for r in drained.reports if r.load and r.load.table_name == table.name]
        if mine:
            yield from _materializations(loader, table, mine)
            yield from evaluations(instance, store, loader.db, table, source.kind.feed)


def _materializations(loader: Loader, table: Table, reports: Sequence[LoadReport]) -> Iterator[dg.AssetMaterialization]:
    """Of each session that changed; of the table as a whole where none did, for its counts must show."""
    told = {**counts_of(loader, table, reports), **loads_of(loader.db, table, reports)}
    sessions = sessions_of_loads(loader, table, reports)
    for key, metadata in (sessions or {None: {}}).items():
        yield dg.AssetMaterialization(table.name, partition=key, metadata={**told, **metadata})


def news(told: Mapping[str, dict], found: Mapping[str, bool], now: float) -> list[str]:
    """The tables whose freshness is to be told: those for which it changed, or was told long ago.

    `told` has what was told of a table last ("fresh", and "at" in seconds); `now` is in the same seconds.
    """
    return [
        table
        for table, fresh in found.items()
        if table not in told or told[table]["fresh"] != fresh or now - told[table]["at"] >= TELL_AGAIN_S
    ]


@dg.sensor(
    name="freshness",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Judges the age of each table's data against the calendar and its sources' due times; tells what changed.",
)
@counted
def freshness_sensor(
    context: dg.SensorEvaluationContext, store: dg.ResourceParam[Store]
) -> dg.SensorResult | dg.SkipReason:
    told, now = json.loads(context.cursor or "{}"), time.time()
    with store.database() as db:
        found = freshness(store, db)
    tell = news(told, {table: evaluation.passed for table, evaluation in found.items()}, now)
    if not tell:
        return dg.SkipReason("All is as it was.")
    told |= {table: {"fresh": found[table].passed, "at": now} for table in tell}
    return dg.SensorResult(asset_events=[found[table] for table in tell], cursor=json.dumps(told))


def sensors() -> list[dg.SensorDefinition]:
    """All sensors."""
    return [*map(load_sensor, SOURCES.values()), compose_sensor, freshness_sensor, alerts_sensor]
