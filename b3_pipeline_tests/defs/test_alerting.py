"""What goes wrong in Dagster reaches the monitor: each result once, and what is well again, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus

from b3_pipeline.alerts import spool
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.watching import heartbeats
from b3_pipeline.defs import alerting
from b3_pipeline.defs.alerting import (
    ONE_OFF_ENDS_S,
    OVERLAP,
    Position,
    alerts_sensor,
    name_of_run,
    news_of_sensors,
    of_sensor,
)
from b3_pipeline.defs.resources import Store


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that needs no servers."""
    monkeypatch.setenv("B3_HOME", str(tmp_path))
    return tmp_path


def report(instance: dg.DagsterInstance, *, passed: bool, severity: str = "ERROR") -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("b3_snapshots"),
            check_name="soft_bounds",
            passed=passed,
            severity=dg.AssetCheckSeverity(severity),
            description="Compare with the source.",
            metadata={"looked_at": "everything", "rows": 0 if passed else 2},
        )
    )


def turn(instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[str | None, list[Condition]]:
    """A turn of the sensor: its cursor, and what it handed over."""
    store = Store()
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"store": store}, sensor_name="alerts"
    )
    result = alerts_sensor(context)
    batch = spool.take(store.settings.home)
    found = list(batch.conditions)
    batch.remove()
    return (result.cursor if isinstance(result, dg.SensorResult) else cursor), found


def test_a_failed_check_is_handed_over_once_and_its_recovery_too(own_home: Path, instance: dg.DagsterInstance) -> None:
    report(instance, passed=False, severity="WARN")
    cursor, first = turn(instance)
    assert [(c.key, c.red, c.severity) for c in first] == [("check:b3_snapshots:soft_bounds", True, "WARN")]
    assert first[0].what == "b3_snapshots: check soft_bounds fails (rows 2)."
    assert first[0].what_to_do == "Compare with the source."
    assert first[0].link == "/assets/b3_snapshots?view=checks&checkDetail=soft_bounds"
    cursor, second = turn(instance, cursor)
    assert second == []
    report(instance, passed=True)
    _cursor, third = turn(instance, cursor)
    assert [(c.key, c.red) for c in third] == [("check:b3_snapshots:soft_bounds", False)]


def test_red_and_green_between_two_turns_are_both_told(own_home: Path, instance: dg.DagsterInstance) -> None:
    report(instance, passed=False)
    report(instance, passed=True)
    assert [c.red for c in turn(instance)[1]] == [True, False]


def test_a_failed_run_is_told_with_its_page(own_home: Path, instance: dg.DagsterInstance) -> None:
    @dg.op
    def breaks() -> None:
        raise ValueError("nothing to see")

    @dg.job
    def broken() -> None:
        breaks()

    result = broken.execute_in_process(instance=instance, raise_on_error=False)
    [condition] = turn(instance)[1]
    assert (condition.key, condition.red, condition.link) == ("run:broken", True, f"/runs/{result.run_id}")


def run(
    instance: dg.DagsterInstance, *, fails: bool, tags: dict[str, str] | None = None, error: Exception | None = None
) -> None:
    @dg.op
    def work() -> None:
        if fails:
            raise error or ValueError("nothing to see")

    @dg.job(name="backfill")
    def job() -> None:
        work()

    job.execute_in_process(instance=instance, raise_on_error=False, tags=tags or {})


def test_a_run_for_one_partition_says_nothing_of_another(own_home: Path, instance: dg.DagsterInstance) -> None:
    run(instance, fails=True, tags={"dagster/partition": "2025-10-13"})
    run(instance, fails=False, tags={"dagster/partition": "2025-10-14"})
    assert [(c.name, c.red) for c in turn(instance)[1]] == [
        ("backfill 2025-10-13", True),
        ("backfill 2025-10-14", False),
    ]


def test_runs_of_other_assets_or_ranges_have_other_names() -> None:
    def named(assets: list[str], **tags: str) -> str:
        keys = frozenset(map(dg.AssetKey, assets))
        return name_of_run(dg.DagsterRun(job_name="__ASSET_JOB", asset_selection=keys, tags=tags))

    span = {"dagster/asset_partition_range_start": "2025-10-13", "dagster/asset_partition_range_end": "2025-10-14"}
    assert named(["b", "a"], **span) == "__ASSET_JOB a b 2025-10-13 2025-10-14"
    long = named(["x" * 300]), named(["x" * 300 + "y"])
    assert long[0] != long[1]
    assert max(map(len, long)) <= 200


def test_only_what_no_schedule_repeats_ends_by_itself(own_home: Path, instance: dg.DagsterInstance) -> None:
    run(instance, fails=True)
    run(instance, fails=True, tags={"dagster/schedule_name": "gaps_daily"})
    assert [c.ends_after_s for c in turn(instance)[1]] == [ONE_OFF_ENDS_S, None]


def test_a_run_that_failed_by_a_blocking_check_alone_is_told_by_the_check_alone(
    own_home: Path, instance: dg.DagsterInstance
) -> None:
    @dg.asset
    def table() -> None:
        pass

    @dg.asset_check(asset=table, blocking=True)
    def parity() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    assert not dg.materialize([table, parity], instance=instance, raise_on_error=False).success
    assert [c.key for c in turn(instance)[1] if c.red] == ["check:table:parity"]


def test_an_event_that_cannot_be_told_keeps_no_other_from_people(
    own_home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_check(result: dg.AssetCheckEvaluation, timestamp: float) -> Condition:
        if result.severity == dg.AssetCheckSeverity.WARN:
            raise ValueError("no such condition")
        return real(result, timestamp)

    real = alerting._of_check
    monkeypatch.setattr(alerting, "_of_check", of_check)
    cursor, _ = turn(instance)
    report(instance, passed=False, severity="WARN")
    report(instance, passed=False)
    cursor, found = turn(instance, cursor)
    assert [c.severity for c in found] == ["ERROR"]
    assert turn(instance, cursor)[1] == []


def test_what_is_red_is_handed_over_again_under_its_id_for_a_monitor_that_lost_its_state(
    own_home: Path, instance: dg.DagsterInstance
) -> None:
    report(instance, passed=False)
    cursor, [first] = turn(instance)
    assert turn(instance, cursor)[1] == [], "not at each turn"
    later = replace(Position.of(cursor), retold=0).text()
    assert turn(instance, later)[1] == [first]
    report(instance, passed=True)
    cursor, _ = turn(instance, cursor)
    assert turn(instance, replace(Position.of(cursor), retold=0).text())[1] == []


def test_each_turn_gives_a_sign_of_life(own_home: Path, instance: dg.DagsterInstance) -> None:
    turn(instance)
    assert heartbeats(own_home, datetime.now(UTC))["alerts"] < 30


def test_an_event_that_shows_late_is_told_all_the_same() -> None:
    position = Position().past([10, 12])
    assert (position.last, position.told) == (12, {10, 12})
    late = position.past([11])
    assert (late.last, late.told) == (12, {10, 11, 12})
    assert Position.of(late.text()) == late


def test_numbers_far_behind_are_forgotten() -> None:
    position = Position().past(range(3)).past([OVERLAP + 1])
    assert position.told == {2, OVERLAP + 1}


class _State:
    """What the functions read of a sensor's state."""

    instigator_name = "load_dxy_chart"
    status = alerting.Status.DECLARED_IN_CODE
    instigator_origin_id = selector_id = ""


class _Tick:
    error = None

    def __init__(self, status: TickStatus, number: int) -> None:
        self.status, self.timestamp, self.tick_id = status, 1_760_000_000.0 + number, number


class _Instance:
    """What the functions ask of an instance that has one sensor."""

    def __init__(self, status: TickStatus) -> None:
        self.state, self.status, self.number = _State(), status, 0

    def all_instigator_state(self) -> list[_State]:
        return [self.state]

    def get_ticks(self, *_of: object, limit: int) -> list[_Tick]:
        self.number += 1
        return [_Tick(self.status, self.number - i) for i in range(limit)]


def test_a_failing_sensor_is_told_again_under_one_id_until_it_works_or_is_switched_off() -> None:
    instance = _Instance(TickStatus.FAILURE)
    [red] = news_of_sensors(instance, {})  # pyright: ignore[reportArgumentType]
    [again] = news_of_sensors(instance, {red.name: red.id})  # pyright: ignore[reportArgumentType]
    assert (again.red, again.id) == (True, red.id)
    instance.state.status = alerting.Status.STOPPED
    [off] = news_of_sensors(instance, {red.name: red.id})  # pyright: ignore[reportArgumentType]
    assert (off.red, off.what) == (False, "load_dxy_chart is switched off.")
    assert news_of_sensors(instance, {red.name: "green"}) == []  # pyright: ignore[reportArgumentType]


def test_a_sensor_that_is_no_more_is_over() -> None:
    instance = _Instance(TickStatus.FAILURE)
    repository = dg.Definitions().get_repository_def()
    [gone] = news_of_sensors(instance, {"load_dxy_chart": "tick 7"}, repository)  # pyright: ignore[reportArgumentType]
    assert not gone.red


def judged(*newest_first: TickStatus) -> bool | None:
    ticks = [_Tick(status, len(newest_first) - i) for i, status in enumerate(newest_first)]
    condition = of_sensor(_State(), ticks)  # pyright: ignore[reportArgumentType]
    return None if condition is None else condition.red


def test_a_sensor_is_failing_when_it_failed_three_times_in_a_row() -> None:
    failed, well, started = TickStatus.FAILURE, TickStatus.SUCCESS, TickStatus.STARTED
    assert judged(failed, failed, failed) is True
    assert judged(started, failed, failed, failed) is True
    assert judged(failed, failed, well) is None
    assert judged(TickStatus.SKIPPED, failed, failed) is False
    assert judged() is None
