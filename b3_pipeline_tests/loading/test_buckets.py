"""Any number of records in bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from b3_pipeline.loading.buckets import TimeBuckets
from b3_pipeline_tests.loading.ticks import Tick, records

HOUR_US = 3_600_000_000
ticks = st.builds(
    Tick, st.one_of(st.integers(0, 3), st.integers(-20_000, 200_000)), st.sampled_from("abc"), st.floats(0, 1)
)
fixture_is_shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@fixture_is_shared
@given(st.lists(st.lists(ticks, max_size=9), max_size=9), st.integers(1, 12))
def test_all_records_come_back_with_each_key_in_one_bucket_and_in_the_order_given(
    tmp_path: Path, pieces: list[list[Tick]], limit: int
) -> None:
    with TimeBuckets(records([]).schema, tmp_path, limit, width_us=HOUR_US) as buckets:
        for piece in pieces:
            buckets.add(records(piece))
        given_back = [
            [(row["ts"], row["bucket"], row["value"]) for piece in bucket for row in piece.to_pylist()]
            for bucket in buckets.buckets()
        ]
    wanted = [(t.ts, t.bucket, t.value) for piece in pieces for t in piece]
    assert sorted(row for bucket in given_back for row in bucket) == sorted(wanted)
    homes: dict[object, int] = {}
    for number, bucket in enumerate(given_back):
        assert all(homes.setdefault(row[:2], number) == number for row in bucket)
        for key in {row[:2] for row in bucket}:
            assert [r for r in bucket if r[:2] == key] == [r for r in wanted if r[:2] == key]
    assert list(tmp_path.iterdir()) == []


def test_few_records_never_touch_the_disk(tmp_path: Path) -> None:
    with TimeBuckets(records([]).schema, tmp_path / "spool", limit=10) as buckets:
        buckets.add(records([Tick(0, "a", 0.1)]))
        assert [piece.num_rows for bucket in buckets.buckets() for piece in bucket] == [1]
    assert not (tmp_path / "spool").exists()


def test_a_bucket_over_the_limit_is_split_by_time_until_one_moment_is_left(tmp_path: Path) -> None:
    with TimeBuckets(records([]).schema, tmp_path, limit=4) as buckets:
        for minute in (0, 0, 0, 0, 0, 0, 1, 2, 3, 4):
            buckets.add(records([Tick(minute, "a", 0.1)]))
        sizes = [sum(piece.num_rows for piece in bucket) for bucket in buckets.buckets()]
    assert sum(sizes) == 10
    assert sizes[0] == 6  # one moment cannot be split
    assert max(sizes[1:]) <= 4


def test_the_files_go_even_when_the_load_breaks_off(tmp_path: Path) -> None:
    def load() -> None:
        with TimeBuckets(records([]).schema, tmp_path, limit=1) as buckets:
            buckets.add(records([Tick(0, "a", 0.1), Tick(1, "a", 0.1)]))
            raise RuntimeError(f"broken off with {len(list(tmp_path.iterdir()))} folder")

    with pytest.raises(RuntimeError, match="with 1 folder"):
        load()
    assert list(tmp_path.iterdir()) == []
