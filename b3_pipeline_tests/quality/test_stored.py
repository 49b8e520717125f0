"""Questions to a table: what they say, and which values they bind."""

from __future__ import annotations

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.quality.parity import Parity
from b3_pipeline.quality.stored import condition, during, one_of, partition_of, partition_window
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import TABLES, Table

BY_MONTH, BY_DAY = TABLES["b3_adjustments"], TABLES["b3_snapshots"]


@given(moment=st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)), table=st.sampled_from([BY_MONTH, BY_DAY]))
def test_every_moment_lies_in_the_window_of_its_partition_alone(moment: datetime, table: Table) -> None:
    window = partition_window(table, partition_of(table, moment))
    assert window.start is not None
    assert window.end is not None
    assert window.start <= moment < window.end
    assert partition_of(table, window.end) != partition_of(table, moment)


def test_conditions_quote_names_and_bind_values_in_their_order() -> None:
    both = condition("{c} > %s", 3, c="a b") & (one_of("d", ["x", None]) | condition("{c} < %s", 1, c="e"))
    assert both.text.as_string() == '("a b" > %s and (("d" is null or "d" in (%s)) or "e" < %s))'
    assert both.values == (3, "x", 1)


def test_a_window_is_half_open_and_always_binds_nothing() -> None:
    start, end = datetime(2025, 1, 1), datetime(2025, 2, 1)
    assert during(BY_DAY, Window(start, end)).text.as_string() == '("ts" >= %s and "ts" < %s)'
    assert during(BY_DAY, ALWAYS).values == ()


def test_corrections_alone_are_no_source_of_a_feed() -> None:
    assert Parity(BY_DAY, "legacy_csv", table_keys=5, read=[("replay:a", "1")]).sourceless
    assert not Parity(BY_DAY, "legacy_csv", table_keys=5, read=[("replay:a", "1"), ("a.csv", "2")]).sourceless
    assert not Parity(BY_DAY, "legacy_csv").sourceless
