"""A home's own time: as its clock file says, at once for every process, and real without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.clock import FILE, ClockDamaged, HomeClock, Pace, remove_clock, set_clock
from b3_pipeline.settings import Settings

BEGAN = datetime(2026, 1, 5, 12, tzinfo=UTC)
START = datetime(2025, 10, 14, 11, 30, tzinfo=UTC)


class Real:
    """The real time, which a test moves."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> datetime:
        return self.now


def test_without_a_file_it_is_the_real_time(tmp_path: Path) -> None:
    assert HomeClock(tmp_path, Real())() == BEGAN


def test_time_goes_at_the_given_pace_until_its_end_and_then_at_its_own(tmp_path: Path) -> None:
    real = Real()
    clock = HomeClock(tmp_path, real)
    set_clock(tmp_path, Pace(START, BEGAN, 60, START + timedelta(hours=2)))
    for seconds, passed in ((0, 0), (1, 60), (120, 7200), (130, 7210), (-5, 0)):
        real.now = BEGAN + timedelta(seconds=seconds)
        assert clock() == START + timedelta(seconds=passed)


def test_a_clock_that_is_set_again_or_removed_is_seen_at_once(tmp_path: Path) -> None:
    clock = HomeClock(tmp_path, Real())
    for day in range(5):
        set_clock(tmp_path, Pace(START + timedelta(days=day), BEGAN))
        assert clock() == START + timedelta(days=day)
    remove_clock(tmp_path)
    remove_clock(tmp_path)
    assert clock() == BEGAN


def test_the_file_is_read_once_as_long_as_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HomeClock(tmp_path, Real())
    set_clock(tmp_path, Pace(START, BEGAN))
    clock()
    monkeypatch.setattr(Path, "read_text", lambda *_: pytest.fail("it was read again"))
    assert clock() == START


@given(st.floats(0.01, 10_000), st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_time_never_goes_back_nor_stands_still(speed: float, seconds: list[float]) -> None:
    pace = Pace(START, BEGAN, speed, START + timedelta(hours=9))
    moments = [pace.at(BEGAN + timedelta(seconds=second)) for second in sorted(seconds)]
    assert moments == sorted(moments)
    assert pace.at(BEGAN + timedelta(days=30_000)) > pace.at(BEGAN + timedelta(days=20_000))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", '{"start": "2025-10-14T11:30:00"}', '{"start": "x", "began": "y"}']
    + [
        f'{{"start": "2025-10-14T11:30:00{zone}", "began": "2026-01-05T12:00:00+00:00", "speed": {speed}}}'
        for zone, speed in (("", "1"), ("+00:00", "0"), ("+00:00", "NaN"), ("+00:00", "null"), ("+00:00", '"x"'))
    ],
)
def test_a_damaged_clock_is_said_and_no_other_time_is_made_up(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    clock = HomeClock(tmp_path)
    for _ in range(2):
        with pytest.raises(ClockDamaged, match=r"clock\.json is no clock"):
            clock()


def test_settings_take_the_homes_clock_and_a_fixed_moment_wins(tmp_path: Path) -> None:
    set_clock(tmp_path, Pace(START, datetime.now(UTC), 1e-6))
    assert abs(Settings(home=tmp_path).clock() - START) < timedelta(seconds=1)
    fixed = datetime(2025, 1, 2, 9, tzinfo=timezone(timedelta(hours=-3)))
    assert Settings(home=tmp_path, now=fixed).clock() == fixed
    assert Settings(home=tmp_path, now=fixed).clock().tzinfo == UTC
