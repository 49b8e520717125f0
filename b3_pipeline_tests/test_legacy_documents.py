"""The legacy documents, made anew from rows, are what the collector wrote."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from b3_pipeline.legacy_documents import brazilian, capture_document, gamma_document
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, Kind
from b3_pipeline.quality.rebuild import first_difference
from b3_pipeline.tables import TABLES, canonical_json


def rows(kind: Kind, data: bytes, table: str) -> list[dict]:
    return [row for chunk in kind.parse(io.BytesIO(data), TABLES[table]).chunks for row in chunk.records.to_pylist()]


@pytest.mark.parametrize("name", ["ultimo_dado.json", "historico/ultimo_dado_20251010_093430.json"])
def test_a_capture_comes_back_from_its_records_with_its_keys_in_order(shared: Path, name: str) -> None:
    data = (shared / "data" / "legacy" / "clean" / name).read_bytes()
    prices, indicators, surface = (
        rows(CAPTURE, data, table) for table in ("b3_snapshots", "b3_indicators", "b3_vol_surface")
    )
    built = capture_document(prices[0]["ts"], reversed(prices), reversed(indicators), reversed(surface))
    assert canonical_json(json.dumps(built)) == canonical_json(data.decode())


def test_gamma_levels_come_back_from_their_records(shared: Path) -> None:
    data = (shared / "data" / "legacy" / "clean" / "gamma.json").read_bytes()
    levels = rows(GAMMA, data, "b3_gamma_levels")
    built = gamma_document(levels[0]["ts"], reversed(levels))
    assert canonical_json(json.dumps(built)) == canonical_json(data.decode())


def test_prices_have_as_many_decimals_as_the_collector_wrote() -> None:
    assert brazilian(5528.5, 3) == "5.528,500"
    assert brazilian(102356.24, 2) == "102.356,24"


def test_what_no_row_gives_is_left_out() -> None:
    from datetime import datetime

    assert capture_document(datetime(2025, 10, 13, 12, 0, 32), [], [], []) == {"timestamp": "2025-10-13T09:00:32"}


def test_the_first_difference_names_the_place_also_where_only_the_order_of_keys_differs() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == ("/a/1/b", 2, 3)
    assert first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) == ("/a", 1, "the key 'b' instead")
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == ("", "1 members", "2 members")
    assert first_difference([1], [1, 2], "/x") == ("/x", "1 members", "2 members")
    assert first_difference({"a": [1]}, {"a": [1]}) is None
