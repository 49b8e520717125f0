"""What goes wrong in Dagster reaches the monitor: each result once, and what is well again, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus

from b3_pipeline.alerts import spool
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.defs import alerting
from b3_pipeline.defs.alerting import OVERLAP, Position, alerts_sensor, of_sensor
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


def test_an_event_that_shows_late_is_told_all_the_same() -> None:
    position = Position().past([10, 12])
    assert (position.last, position.told) == (12, {10, 12})
    late = position.past([11])
    assert late.told == {10, 11, 12} or late.last == 12
    assert Position.of(late.text()).told == late.told


def test_numbers_far_behind_are_forgotten() -> None:
    position = Position().past(range(3)).past([OVERLAP + 1])
    assert position.told == {2, OVERLAP + 1}


class _State:
    """What the functions read of a sensor's state."""

    instigator_name = "load_dxy_chart"
    status = alerting.Status.DECLARED_IN_CODE


class _Tick:
    error = None

    def __init__(self, status: TickStatus, number: int) -> None:
        self.status, self.timestamp, self.tick_id = status, 1_760_000_000.0 + number, number


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
