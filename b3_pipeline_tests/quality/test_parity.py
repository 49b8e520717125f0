"""Parity in pieces of any size says the same, and the comparison of two sides is that of two dictionaries."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.quality.parity import compare, parity
from b3_pipeline.quality.stored import condition, stretches
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.loading.ticks import START, TICKS
from b3_pipeline_tests.quality.conftest import Desk

Side = dict[tuple[int, str], float | None]
sides = st.dictionaries(
    st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"])), st.one_of(st.none(), st.sampled_from([0.1, 0.2]))
)


def side(values: Side) -> pa.Table:
    wanted = tuple(c for c in TICKS.columns if c.name not in ("ingested_at", "feed"))
    rows = [
        {"ts": START + timedelta(minutes=minute), "bucket": bucket, "value": value, "load_id": 1}
        for (minute, bucket), value in values.items()
    ]
    return pa.Table.from_pylist(rows, schema=TICKS.arrow_schema(wanted))


@given(source=sides, stored=sides)
def test_two_sides_compare_as_two_dictionaries_do(source: Side, stored: Side) -> None:
    found = compare(TICKS, side(source), side(stored))
    keys, theirs = list(source), list(stored)
    assert {keys[i] for i in found.missing} == source.keys() - stored.keys()
    assert {theirs[i] for i in found.extra} == stored.keys() - source.keys()
    assert {keys[i] for i in found.different} == {k for k in source.keys() & stored.keys() if source[k] != stored[k]}
    assert found.row_keys == len(stored)


def test_a_key_that_is_stored_twice_counts_once_and_differs_when_one_of_its_rows_does() -> None:
    twice = pa.concat_tables([side({(0, "a"): 0.1}), side({(0, "a"): 0.2}), side({(1, "a"): 0.1})])
    found = compare(TICKS, side({(0, "a"): 0.1}), twice)
    assert (found.row_keys, found.different.tolist(), found.extra.tolist()) == (2, [0], [2])


@pytest.mark.parametrize("limit", [20, 10_000])
def test_pieces_of_any_size_give_the_same_numbers(settled: Desk, limit: int) -> None:
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    settled.sql(
        "update b3_adjustments set price_settlement = 99999 where instrument = 'DI1' and ts in '2025-01-08'",
        "b3_adjustments",
    )
    settled.sql(
        "insert into b3_adjustments (ts, instrument, contract_month, price_settlement, feed, load_id) "
        "select dateadd('y', -3, ts), instrument, contract_month, price_settlement, feed, 7 from b3_adjustments "
        "where ts in '2025-08'",
        "b3_adjustments",
    )
    found = parity(settled.context(limit=limit), TABLES["b3_adjustments"], "legacy_csv")
    assert (found.source_keys, found.missing, found.extra, found.different) == (582, 57, 63, 1)
    assert set(found.crowded) == {"2022-08"}
    assert found.strangers == {7: 63}
    assert not list((settled.home / "spool" / "parity").glob("*/*"))


def test_stretches_tile_all_of_time_and_hold_no_more_than_asked(settled: Desk) -> None:
    every = condition("1 = 1")
    found = list(stretches(settled.db, TABLES["b3_adjustments"], 40, ALWAYS, every))
    windows = [window for window, _rows in found]
    assert (windows[0].start, windows[-1].end) == (None, None)
    assert all(a.end == b.start is not None for a, b in pairwise(windows))
    assert sum(rows for _window, rows in found) == 582
    assert max(rows for _window, rows in found) <= 40


def test_of_several_files_with_one_key_the_newer_load_stands_as_it_does_in_the_table(captured: Desk) -> None:
    newest = captured.folder / "ultimo_dado.json"
    again = newest.read_text().replace("99121.69", "99121.70").replace("99.121,69", "99.121,70")
    (captured.folder / "historico" / "ultimo_dado_20251013_090032.json").write_text(again)
    before = parity(captured.context(), TABLES["b3_snapshots"], "legacy_capture")
    assert before.different == 1
    captured.load()
    assert parity(captured.context(), TABLES["b3_snapshots"], "legacy_capture").holds()
    newer = "select price_settlement from b3_snapshots where instrument = 'DI1' and ts in '2025-10-13'"
    assert captured.db.query(newer) == [(99121.70,)]
    assert not captured.red("b3_snapshots", "b3_captures")


def test_a_conflicting_repeat_in_a_file_counts_as_rejected_and_its_first_line_stands(settled: Desk) -> None:
    file = settled.folder / "ajustes_b3.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines, lines[1].replace("98532.10", "98533.10").replace("98.532,10", "98533.10")]))
    found = parity(settled.context(), TABLES["b3_adjustments"], "legacy_csv")
    assert (found.source_keys, found.rejected, found.different) == (582, 1, 0)


def test_nothing_of_either_side_compares_to_nothing() -> None:
    found = compare(TICKS, side({}), side({}))
    assert not any(map(len, (found.missing, found.extra, found.different)))
    assert isinstance(found.missing, np.ndarray)
