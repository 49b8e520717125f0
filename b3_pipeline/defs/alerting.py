"""What went wrong in Dagster, handed to the monitor: failed checks of runs and of ticks, failed runs, failing sensors."""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import dagster as dg
from dagster._check import CheckError
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus
from dagster._core.scheduler.instigation import InstigatorStatus as Status
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    SCHEDULE_NAME_TAG,
)

from b3_pipeline.alerts import spool
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.watching import ALERTS, beat
from b3_pipeline.defs.checks import LOOKED_AT, last_results
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.turns import counted
from b3_pipeline.quality.checks import checks_of
from b3_pipeline.tables import TABLES

_TYPES = (
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_SUCCESS,
)
#: Events of one type read in a turn.
_AT_ONCE = 1_000
#: Two writers' events may show in another order than their numbers have: so many numbers back are looked at again.
OVERLAP = 500
#: A sensor that failed so many times in a row is failing; once may be a server that restarts.
FAILURES = 3
_LOOK_AT_SENSORS_EVERY_S = 30
#: What is red is handed over again under its id, for a monitor that has lost its state.
_TELL_RED_CHECKS_EVERY_S = 600
#: A run that no schedule repeats: nobody may ever run it again.
ONE_OFF_ENDS_S = 24 * 3_600
#: What an event raises that is not as it should be; a database that is away raises others, and is asked again.
_BAD = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, CheckError)
_LONGEST_NAME, _GREEN = 150, "green"


@dataclass(frozen=True)
class Position:
    """Where the reading of events stands: the greatest number seen, and of those just below it the ones that were told.

    `looked_at` is when the sensors were last looked at, `retold` when the red checks were handed over again (s since
    1970); `sensors` has by name the id under which a sensor was told as red, or `green`.
    """

    last: int = 0
    told: frozenset[int] = frozenset()
    looked_at: float = 0
    retold: float = 0
    sensors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, cursor: str | None) -> "Position":
        given = json.loads(cursor or "{}")
        told = frozenset(given.pop("told", ()))
        return cls(told=told, **given)

    def text(self) -> str:
        return json.dumps({**vars(self), "told": sorted(self.told)})

    def past(self, ids: Iterable[int]) -> "Position":
        """The position after these events, which include all that are new."""
        ids = set(ids)
        last = max([self.last, *ids])
        return replace(self, last=last, told=frozenset(i for i in self.told | ids if i > last - OVERLAP))


def of_event(instance: dg.DagsterInstance, entry: dg.EventLogEntry) -> Condition | None:
    """What an event says: a check's result, a run's end. None for what is neither."""
    event = entry.dagster_event
    if event is None:
        return None
    if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return _of_check(event.asset_check_evaluation_data, entry.timestamp)
    run, failed = instance.get_run_by_id(entry.run_id), event.event_type == dg.DagsterEventType.RUN_FAILURE
    if run is None:  # somebody has deleted it
        return None
    if failed and _only_checks_failed(instance, run):
        failed = False  # it did all that it is for, and each red check is told by itself
    name = name_of_run(run)
    return Condition(
        kind="run",
        name=name,
        red=failed,
        what=f"A run of {name} failed." if failed else f"A run of {name} went through.",
        what_to_do="The run's page says which step failed and why; run it again when that is mended: nothing is loaded twice.",
        link=f"/runs/{entry.run_id}",
        id=f"run {entry.run_id} {entry.timestamp}",
        at=datetime.fromtimestamp(entry.timestamp, UTC),
        ends_after_s=None if SCHEDULE_NAME_TAG in run.tags else ONE_OFF_ENDS_S,
    )


def name_of_run(run: dg.DagsterRun) -> str:
    """What tells runs apart that do not do the same: the job, what was chosen of it, and for which partitions."""
    chosen = [key.to_user_string() for key in [*(run.asset_selection or ()), *(run.asset_check_selection or ())]]
    tags = (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
    partitions = [run.tags[tag] for tag in tags if tag in run.tags]
    name = " ".join([run.job_name, *sorted(chosen), *dict.fromkeys(partitions)])
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}… {hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _only_checks_failed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether all that failed of a run are blocking checks."""
    entries = instance.event_log_storage.get_logs_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    errors = [entry.dagster_event.step_failure_data.error for entry in entries if entry.dagster_event]
    return bool(errors) and all(error and error.cls_name == "DagsterAssetCheckFailedError" for error in errors)


def _of_check(result: dg.AssetCheckEvaluation, timestamp: float) -> Condition:
    table = result.asset_key.to_user_string()
    thing = f"{table}:{result.check_name}"
    numbers = {
        name: value.value
        for name, value in result.metadata.items()
        if name != LOOKED_AT and isinstance(value, (dg.IntMetadataValue, dg.FloatMetadataValue)) and value.value
    }
    counted = ", ".join(f"{name} {value}" for name, value in numbers.items())
    return Condition(
        kind="check",
        name=thing,
        red=not result.passed,
        severity="WARN" if result.severity == dg.AssetCheckSeverity.WARN else "ERROR",
        what=f"{table}: check {result.check_name} {'passes' if result.passed else 'fails'}{f' ({counted})' if counted else ''}.",
        what_to_do=result.description or "",
        link=f"/assets/{table}?view=checks&checkDetail={result.check_name}",
        id=f"check {hashlib.sha256(thing.encode()).hexdigest()[:16]} {timestamp}",
        at=datetime.fromtimestamp(timestamp, UTC),
    )


def red_checks(instance: dg.DagsterInstance) -> list[Condition]:
    """The checks whose last result is red, under the ids of those results."""
    keys = [dg.AssetCheckKey(dg.AssetKey(name), c.name) for name, table in TABLES.items() for c in checks_of(table)]
    results = last_results(instance, keys).values()
    return [_of_check(result, entry.timestamp) for entry, result in results if not result.passed]


def of_sensor(state: InstigatorState, ticks: Sequence[InstigatorTick]) -> Condition | None:
    """What a sensor's or schedule's last ended ticks (the newest first) say of it; None while they say neither.

    One that is switched off is not failing any more.
    """
    ended = [tick for tick in ticks if tick.status != TickStatus.STARTED]
    if state.status == Status.STOPPED:
        return _off(state)
    if not ended:
        return None
    failing = len(ended) >= FAILURES and all(tick.status == TickStatus.FAILURE for tick in ended[:FAILURES])
    if ended[0].status == TickStatus.FAILURE and not failing:
        return None
    error = ended[0].error
    why = (error.cause or error).message.strip().rpartition("\n")[2] if error else ""
    return Condition(
        kind="sensor",
        name=state.instigator_name,
        red=failing,
        what=f"{state.instigator_name} fails at each turn: {why}" if failing else f"{state.instigator_name} works.",
        what_to_do="Nothing is lost: it goes on where it stopped. Its page has the error of each turn; `b3 doctor` looks at the servers.",
        link="/automation",
        at=datetime.fromtimestamp(ended[0].timestamp, UTC),
        id=f"tick {ended[0].tick_id} {ended[0].timestamp}",
    )


def _off(state: InstigatorState) -> Condition:
    what = f"{state.instigator_name} is switched off."
    return Condition(kind="sensor", name=state.instigator_name, red=False, what=what, at=datetime.now(UTC))


def news_of_sensors(
    instance: dg.DagsterInstance, told: Mapping[str, str], repository: dg.RepositoryDefinition | None = None
) -> list[Condition]:
    """The sensors that turned red or green since they were last told, and those that are red still, under the same id.

    With a repository, what is not in it any more is over.
    """
    found = []
    there = {one.name for one in (*repository.sensor_defs, *repository.schedule_defs)} if repository else None
    for state in instance.all_instigator_state():
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=FAILURES + 1)
        gone = there is not None and state.instigator_name not in there
        condition = _off(state) if gone else of_sensor(state, ticks)
        before = told.get(state.instigator_name, _GREEN)
        if condition is not None and condition.red:
            found.append(condition if before == _GREEN else condition.model_copy(update={"id": before}))
        elif condition is not None and before != _GREEN:
            found.append(condition)
    return found


def _new_events(instance: dg.DagsterInstance, position: Position) -> dict[int, dg.EventLogEntry]:
    """The events after a position that were not told yet, in order; of what is too much for a turn, the beginning."""
    after, end, found = max(position.last - OVERLAP, -1), math.inf, {}
    for one in _TYPES:
        events = instance.event_log_storage.get_logs_for_all_runs_by_log_id(after, one, _AT_ONCE)
        if len(events) == _AT_ONCE:  # there are more: what comes after its last waits with them
            end = min(end, max(events))
        found |= events
    return {number: found[number] for number in sorted(found) if number <= end and number not in position.told}


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Hands failed checks, failed runs and failing sensors to the monitor, which alerts people; and what is well again.",
)
@counted
def alerts_sensor(
    context: dg.SensorEvaluationContext, store: dg.ResourceParam[Store]
) -> dg.SensorResult | dg.SkipReason:
    position = Position.of(context.cursor)
    conditions, after = _turn(context, position)
    spool.put(store.settings.home, conditions)
    beat(store.settings.folder(ALERTS))
    if not conditions and after == position:
        return dg.SkipReason("Nothing happened since.")
    return dg.SensorResult(cursor=after.text())


def _turn(context: dg.SensorEvaluationContext, position: Position) -> tuple[list[Condition], Position]:
    """What is to be handed over, and the position after it."""
    instance, now = context.instance, datetime.now(UTC).timestamp()  # of the daemon's ticks, which are real
    red = red_checks(instance) if now - position.retold >= _TELL_RED_CHECKS_EVERY_S else None
    new = _new_events(instance, position)
    conditions, after = _conditions(context, new.values()), position.past(new)
    if red is not None and len(new) < _AT_ONCE - OVERLAP:  # else there is more to read, which may be older than these
        ids = {condition.id for condition in conditions}
        conditions = [*(condition for condition in red if condition.id not in ids), *conditions]
        after = replace(after, retold=now)
    if now - position.looked_at >= _LOOK_AT_SENSORS_EVERY_S:
        sensors = news_of_sensors(instance, position.sensors, context.repository_def)
        conditions += sensors
        told = {condition.name: condition.id if condition.red else _GREEN for condition in sensors}
        after = replace(after, looked_at=now, sensors={**position.sensors, **told})
    return conditions, after


def _conditions(context: dg.SensorEvaluationContext, entries: Collection[dg.EventLogEntry]) -> list[Condition]:
    """What events say; one that cannot be read is passed over, or it would keep all that follow from people."""
    found = []
    for entry in entries:
        try:
            found.append(of_event(context.instance, entry))
        except _BAD as error:
            context.log.error(f"An event of run {entry.run_id or '(none)'} could not be told: {error}")
    return [condition for condition in found if condition is not None]
