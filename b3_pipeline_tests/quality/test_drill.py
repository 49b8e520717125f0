"""From a count down to the rows behind it: every problem is counted in its session, each session shows its first rows."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.quality import drill
from b3_pipeline.quality.drill import Drill, sessions_at
from b3_pipeline.quality.finding import session

moments = st.lists(st.datetimes(datetime(2015, 1, 1), datetime(2026, 12, 31)), max_size=60)


def array(given_moments: list[datetime]) -> np.ndarray:
    return np.array(given_moments, "datetime64[us]")


def shown(many: Drill, problem: str, given_moments: list[datetime]) -> None:
    def rows(places: np.ndarray) -> list[dict[str, Any]]:
        return [{"ts": given_moments[place]} for place in places]

    many.count(problem, array(given_moments))
    many.show(problem, array(given_moments), rows)


@given(moments)
def test_many_moments_have_the_sessions_that_each_has(some: list[datetime]) -> None:
    assert [day.isoformat() for day in sessions_at(array(some)).tolist()] == [session(moment) for moment in some]


@given(moments, moments)
def test_counts_are_exact_and_each_session_shows_its_first_rows(missing: list[datetime], extra: list[datetime]) -> None:
    found = Drill()
    shown(found, "missing", missing[:30])
    shown(found, "extra", extra)
    shown(found, "missing", missing[30:])
    told = found.told()
    for problem, given_moments in (("missing", missing), ("extra", extra)):
        counts = Counter(map(session, given_moments))
        assert {p["partition"]: p[problem] for p in told if p[problem]} == counts
        for partition in told:
            mine = [m for m in given_moments if session(m) == partition["partition"]]
            rows = [row["ts"] for row in partition["rows"] if row["problem"] == problem]
            assert rows == mine[: drill.ROWS]
    assert [p["partition"] for p in told] == sorted({session(m) for m in (*missing, *extra)})


def test_beyond_some_partitions_rows_are_counted_and_not_shown() -> None:
    found = Drill()
    start = datetime(2010, 1, 4, 15)
    shown(found, "missing", [start + timedelta(days=7 * week) for week in range(drill.PARTITIONS + 50)])
    told = found.told()
    assert sum(p["missing"] for p in told) == drill.PARTITIONS + 50
    assert sum(bool(p["rows"]) for p in told) == drill.PARTITIONS


def test_nothing_is_shown_of_nothing() -> None:
    found = Drill()
    shown(found, "extra", [])
    assert found.told() == []
