"""The legacy capture against the composed one, and the place where what differs is kept."""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.capture_differences import Comparison, Difference, NoCapture, compare, differences
from b3_pipeline.postgres.comparisons import ComparisonsError, latest, record

NOW = datetime(2025, 10, 13, 12, 1, tzinfo=UTC)


@pytest.fixture
def legacy(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "data" / "legacy" / "clean" / "ultimo_dado.json").read_text("utf-8"))


def of_kind(found: list[Difference]) -> list[tuple]:
    return [(d.kind, d.pointer, d.legacy, d.composed) for d in found]


def test_a_capture_does_not_differ_from_itself_whatever_the_order_of_its_members(legacy: dict) -> None:
    turned = dict(reversed(legacy.items()))
    turned["superficie_volatilidade"] = legacy["superficie_volatilidade"][::-1]
    assert differences(legacy, turned) == []


def test_each_field_that_differs_is_listed_with_its_kind(legacy: dict) -> None:
    composed = copy.deepcopy(legacy)
    composed["timestamp"] = "2025-10-13T09:00:00"
    composed["DI1"] |= {"preco_numerico": 99121.7, "preco": "99.121,7", "data_ajuste": "10/10/2025"}
    composed["indicadores_financeiros"]["TAXA SOFR"]["valor"] = "4,130"
    del composed["DOL"]["preco_anterior"]
    composed["superficie_volatilidade"][1]["delta_1"] = 21.62
    composed["superficie_volatilidade"].append({"mes": "jan-26", "delta_1": 22.0})
    del composed["superficie_volatilidade"][0]["delta_99"]
    assert of_kind(differences(legacy, composed)) == [
        ("expected", "/timestamp", "2025-10-13T09:00:32", "2025-10-13T09:00:00"),
        ("different", "/DI1/preco", "99.121,69", "99.121,7"),
        ("different", "/DI1/preco_numerico", 99121.69, 99121.7),
        ("missing", "/DOL/preco_anterior", "5.530,704", None),
        ("expected", "/indicadores_financeiros/TAXA SOFR/valor", "4,13", "4,130"),
        ("missing", "/superficie_volatilidade/nov-25/delta_99", 12.11, None),
        ("different", "/superficie_volatilidade/dez-25/delta_1", 21.61, 21.62),
        ("expected", "/DI1/data_ajuste", None, "10/10/2025"),
        ("extra", "/superficie_volatilidade/jan-26/mes", None, "jan-26"),
        ("extra", "/superficie_volatilidade/jan-26/delta_1", None, 22.0),
    ]


def test_a_truth_value_is_no_number_and_null_is_not_missing() -> None:
    assert of_kind(differences({"a": True, "b": None}, {"a": 1})) == [
        ("different", "/a", True, 1),
        ("missing", "/b", None, None),
    ]


def test_a_comparison_counts_fields_and_those_that_differ_and_names_session_and_documents(legacy: dict) -> None:
    composed = copy.deepcopy(legacy)
    composed["fonte"] = "B3 (composed)"
    composed["DDI"]["preco_numerico"] = 1.0
    given_bytes = [json.dumps(document).encode() for document in (legacy, composed)]
    found = compare(NOW, *given_bytes)
    assert (found.session, found.fields, found.different) == (date(2025, 10, 13), 54, 1)
    assert [d.kind for d in found.differences] == ["expected", "different"]
    assert found.legacy_sha256 != found.composed_sha256


def test_a_document_in_latin_1_or_with_a_mark_is_compared_by_what_it_says(legacy: dict) -> None:
    text = json.dumps(legacy, ensure_ascii=False)
    assert compare(NOW, text.encode("latin-1"), text.encode("utf-8-sig")).differences == ()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"gammalevels": {}}', b'{"timestamp": "yesterday"}'])
def test_what_is_no_capture_is_a_sentence(legacy: dict, data: bytes) -> None:
    with pytest.raises(NoCapture):
        compare(NOW, data, json.dumps(legacy).encode())


documents = st.dictionaries(
    st.sampled_from(["a", "DI1", "a/b", "superficie_volatilidade"]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3) | st.just("1,0"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["mes", "x"]), inner, max_size=2),
        max_leaves=8,
    ),
)


@given(documents, documents)
def test_two_documents_have_no_difference_exactly_when_they_have_the_same_fields(one: dict, other: dict) -> None:
    assert differences(one, copy.deepcopy(one)) == []
    forth, back = differences(one, other), differences(other, one)
    assert {d.pointer for d in forth} == {d.pointer for d in back}


# Where comparisons are kept


@pytest.fixture
def dsn(postgres: str) -> Iterator[str]:
    def forget() -> None:
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute("drop table if exists b3.capture_comparisons")

    forget()
    yield postgres
    forget()


def made(**more: Any) -> Comparison:
    hashes = secrets.token_hex(32), secrets.token_hex(32)
    found = (Difference("/DI1/preco_numerico", 1.5, None, "missing"), Difference("/é", "\u2028", True, "different"))
    return replace(Comparison(NOW, date(2025, 10, 13), *hashes, 54, found), **more)


def test_a_comparison_is_kept_once_for_the_same_two_documents(dsn: str) -> None:
    first = made()
    assert latest(dsn) == []
    assert record(dsn, first)
    assert not record(dsn, replace(first, at=NOW.replace(hour=13), fields=1))
    assert latest(dsn) == [first]


def test_the_latest_come_first(dsn: str) -> None:
    given_comparisons = [made(at=NOW.replace(hour=hour)) for hour in (12, 14, 13)]
    for each in given_comparisons:
        record(dsn, each)
    assert [c.at.hour for c in latest(dsn, 2)] == [14, 13]


def test_whatever_a_document_says_can_be_kept(dsn: str, legacy: dict) -> None:
    strange = (
        b'{"timestamp": "2025-10-13T09:00:32", "x": NaN, "y": 1e999, "z": "\\u0000", "\\u0000": 1, "w": -Infinity}'
    )
    found = compare(NOW, strange, json.dumps(legacy).encode())
    assert record(dsn, found)
    assert latest(dsn) == [found]


def test_a_postgresql_that_is_away_is_a_sentence_without_its_password() -> None:
    with pytest.raises(ComparisonsError, match="does not answer") as failed:
        record("postgresql://u:hunter2@127.0.0.1:1/x", made())
    assert "hunter2" not in str(failed.value)
