"""Records against records."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.loading.compare import Standing, differing, judge, key_ids
from b3_pipeline.parsing.records import empty_records
from b3_pipeline.questdb.client import as_arrow
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.loading.ticks import TICKS, Tick, records

ticks = st.builds(Tick, st.integers(0, 3), st.sampled_from(["dxy_08h50", "dxy_08h55"]), st.sampled_from([0.1, 0.2]))
STORED = tuple(c for c in TICKS.columns if c.name not in ("ingested_at", "feed"))


def stored(*rows: tuple[Tick, int]) -> pa.Table:
    return as_arrow([(t.ts, t.bucket, t.value, "sucesso", None, load) for t, load in rows], TICKS.arrow_schema(STORED))


@given(st.lists(ticks, max_size=20))
def test_two_records_have_the_same_key_id_exactly_when_all_their_keys_are_equal(rows: list[Tick]) -> None:
    ids = key_ids(records(rows), ["ts", "bucket"])
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (ids[i] == ids[j]) == (a.key == b.key)


@given(st.lists(st.lists(ticks, max_size=8), max_size=5))
def test_the_first_of_each_key_stands_and_repeats_are_duplicates_or_conflicts(pieces: list[list[Tick]]) -> None:
    standing = Standing(TICKS, empty_records(TICKS))
    first: dict[object, Tick] = {}
    duplicates = conflicts = 0
    for piece in pieces:
        standing.add(records(piece))
        for tick in piece:
            met = first.setdefault(tick.key, tick)
            if met is not tick:
                duplicates += met.value == tick.value
                conflicts += met.value != tick.value
    assert standing.records.num_rows == len(first)
    assert set(standing.records.column("value").to_pylist()) == {t.value for t in first.values()}
    assert standing.duplicate == duplicates
    assert sum(c.num_rows for c in standing.conflicts) == conflicts


def test_two_nulls_are_equal_and_a_null_is_no_value() -> None:
    a, b = (pa.table({"value": pa.array(v, pa.float64())}) for v in ([None, None, 1.0], [None, 1.0, 1.0]))
    assert differing(a, b, [TICKS.column("value")])["value"].tolist() == [False, True, False]


def test_a_document_in_another_layout_is_the_same_value() -> None:
    column = TABLES["b3_captures"].column("payload")
    a = pa.table({"payload": ['{"a": 1, "b": 2}', '{"a": 1, "b": 2}']})
    b = pa.table({"payload": ['{\n "a":1,\n "b":2\n}', '{"b": 2, "a": 1}']})
    assert differing(a, b, [column])["payload"].tolist() == [False, True]  # the order of the keys is kept


@pytest.mark.parametrize("text", ["half a docu", "[" * 100_000, r'"\ud800"', ""])
def test_a_text_that_is_no_document_is_the_same_as_itself_alone(text: str) -> None:
    column = TABLES["b3_captures"].column("payload")
    a, b = pa.table({"payload": [text, text]}), pa.table({"payload": [text, "{}"]})
    assert differing(a, b, [column])["payload"].tolist() == [False, True]


def test_a_key_that_is_null_is_a_key_of_its_own() -> None:
    buckets = pa.array(["a", None, "", None, "a"]).dictionary_encode()
    moments = pa.array([1, None, 1, None, None], pa.timestamp("us"))
    rows = pa.table({"bucket": buckets, "ts": moments})
    assert key_ids(rows, ["bucket"]).tolist() == [0, 1, 2, 1, 0]
    assert key_ids(rows, ["ts"]).tolist() == [0, 1, 0, 1, 1]


def test_a_stored_row_without_a_key_is_met_by_no_record() -> None:
    nameless = as_arrow([(Tick(0, "", 0).ts, None, 0.1, None, None, 5)], TICKS.arrow_schema(STORED))
    verdict = judge(TICKS, records([Tick(0, "dxy_08h50", 0.1)]), nameless, 7)
    assert verdict.write.tolist() == [True]


def test_every_line_of_the_table_of_verdicts() -> None:
    new, same, other, mine, later = (Tick(m, "dxy_08h50", 0.1) for m in range(5))
    changed = Tick(2, "dxy_08h50", 0.9)
    after = Tick(4, "dxy_08h50", 0.9)
    verdict = judge(
        TICKS, records([new, same, other, mine, later]), stored((same, 5), (changed, 5), (mine, 7), (after, 9)), 7
    )
    assert verdict.write.tolist() == [True, False, True, False, False]
    assert verdict.contested.tolist() == [False, False, False, False, True]
    assert verdict.revised.tolist() == [False, False, True, False, False]
    assert verdict.own.tolist() == [False, False, False, True, False]
    assert verdict.old.column("value").to_pylist() == [0.9]


def test_nothing_to_compare_is_no_error() -> None:
    assert judge(TICKS, records([]), stored(), 7).write.tolist() == []
    assert judge(TICKS, records([Tick(0, "b", 0.1)]), stored(), 7).write.tolist() == [True]
