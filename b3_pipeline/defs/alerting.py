"""What went wrong in Dagster, handed to the monitor: failed checks of runs and of ticks, failed runs, failing sensors."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus
from dagster._core.scheduler.instigation import InstigatorStatus as Status

from b3_pipeline.alerts import spool
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.defs.checks import LOOKED_AT
from b3_pipeline.defs.resources import Store

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


@dataclass(frozen=True)
class Position:
    """Where the reading of events stands: the greatest number seen, and of those just below it the ones that were told.

    `sensors` has when the sensors were last looked at (s since 1970), and by name which tick was told of each.
    """

    last: int = 0
    told: frozenset[int] = frozenset()
    looked_at: float = 0
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
        last = max(ids, default=self.last)
        return Position(last, frozenset(i for i in self.told | ids if i > last - OVERLAP), self.looked_at, self.sensors)


def of_event(number: int, entry: dg.EventLogEntry) -> Condition | None:
    """What an event says: a check's result, a run's end. None for what is neither."""
    event = entry.dagster_event
    if event is None:
        return None
    # with its time, for a storage that is made anew counts from the beginning
    about = {"id": f"event {number} {entry.timestamp}", "at": datetime.fromtimestamp(entry.timestamp, UTC)}
    if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return _of_check(event.asset_check_evaluation_data, about)
    job, failed = entry.job_name or "", event.event_type == dg.DagsterEventType.RUN_FAILURE
    return Condition(
        kind="run",
        name=job,
        red=failed,
        what=f"A run of {job} failed." if failed else f"A run of {job} succeeded.",
        what_to_do="The run's page says which step failed and why; run it again when that is mended: nothing is loaded twice.",
        link=f"/runs/{entry.run_id}",
        **about,
    )


def _of_check(result: dg.AssetCheckEvaluation, about: Mapping) -> Condition:
    table = result.asset_key.to_user_string()
    numbers = {
        name: value.value
        for name, value in result.metadata.items()
        if name != LOOKED_AT and isinstance(value, (dg.IntMetadataValue, dg.FloatMetadataValue)) and value.value
    }
    counted = ", ".join(f"{name} {value}" for name, value in numbers.items())
    return Condition(
        kind="check",
        name=f"{table}:{result.check_name}",
        red=not result.passed,
        severity="WARN" if result.severity == dg.AssetCheckSeverity.WARN else "ERROR",
        what=f"{table}: check {result.check_name} {'passes' if result.passed else 'fails'}{f' ({counted})' if counted else ''}.",
        what_to_do=result.description or "",
        link=f"/assets/{table}?view=checks&checkDetail={result.check_name}",
        **about,
    )


def of_sensor(state: InstigatorState, ticks: Sequence[InstigatorTick]) -> Condition | None:
    """What a sensor's or schedule's last ended ticks (the newest first) say of it; None while they say neither."""
    ended = [tick for tick in ticks if tick.status != TickStatus.STARTED]
    if not ended or state.status == Status.STOPPED:
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


def news_of_sensors(instance: dg.DagsterInstance, told: Mapping[str, str]) -> dict[str, Condition]:
    """By sensor, what changed since it was last told (`red` or `green` by name)."""
    found = {}
    for state in instance.all_instigator_state():
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=FAILURES + 1)
        condition = of_sensor(state, ticks)
        if condition is not None and told.get(condition.name, "green") != _colour(condition):
            found[condition.name] = condition
    return found


def _colour(condition: Condition) -> str:
    return "red" if condition.red else "green"


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
def alerts_sensor(
    context: dg.SensorEvaluationContext, store: dg.ResourceParam[Store]
) -> dg.SensorResult | dg.SkipReason:
    position = Position.of(context.cursor)
    new = _new_events(context.instance, position)
    conditions = [condition for number, entry in new.items() if (condition := of_event(number, entry))]
    after = position.past(new)
    now = datetime.now(UTC).timestamp()  # of the daemon's ticks, which are real
    if now - position.looked_at >= _LOOK_AT_SENSORS_EVERY_S:
        sensors = news_of_sensors(context.instance, position.sensors)
        conditions += sensors.values()
        colours = {name: _colour(condition) for name, condition in sensors.items()}
        after = Position(after.last, after.told, now, {**position.sensors, **colours})
    if not conditions and after == position:
        return dg.SkipReason("Nothing happened since.")
    spool.put(store.settings.home, conditions)
    return dg.SensorResult(cursor=after.text())
