"""`/paridade` leads from a table and feed to the session and the key, with both values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from b3_pipeline.api.page.proof import proof_of
from b3_pipeline.quality import parity_report
from b3_pipeline_tests.api.page.conftest import Desk

AT = datetime(2025, 10, 14, 15, tzinfo=UTC)
KEY = {"ts": "2025-10-13T12:00:00Z", "instrument": "<b>DI1", "contract_month": "X25", "feed": "legacy_csv"}
ORIGIN = {"file": "ajustes_b3.csv", "line": 194}
ROWS = [
    {"problem": "missing", **KEY, **ORIGIN},
    {"problem": "extra", **KEY, "instrument": "DDI"},
    {"problem": "different", **KEY, "column": "price", "source_value": 5528.504, "stored_value": None, **ORIGIN},
]
NUMBERS = {"source_keys": 1_582, "table_keys": 582, "missing": 1_000, "extra": 1, "different": 1}
NUMBERS |= {"rejected": 0, "expired": 0}


def kept(home: Path, **more: Any) -> None:
    """Keeps a report with one partition of each problem, and one whose rows were not kept."""
    counts = {"missing": 1, "extra": 1, "different": 1}
    partitions = [
        {"partition": "2025-10-13", **counts, "rows": ROWS},
        {"partition": "2025-10-14", **counts, "missing": 999, "rows": []},
    ]
    check = {"table": "b3_adjustments", "check": "parity_legacy_csv", "passed": False, "partitions": partitions}
    fine = {"table": "b3_captures", "check": "parity_legacy_capture", "passed": True, "partitions": []}
    tables = {"b3_adjustments": {"legacy_csv": NUMBERS}, "b3_captures": {"legacy_capture": dict.fromkeys(NUMBERS, 0)}}
    parity_report.keep(home, {"ok": False, "tables": tables, "checks": [check, fine], **more}, AT)


@pytest.fixture
def page(desk: Desk, client: TestClient, tmp_path: Path) -> str:
    kept(tmp_path)
    desk.parity = replace(desk.parity, proof=proof_of(tmp_path))
    answer = client.get("/paridade")
    assert answer.status_code == 200
    return " ".join(answer.text.split())


def test_each_table_and_feed_has_its_numbers(page: str) -> None:
    assert "não provado" in page
    assert "14/10/2025 12:00" in page
    assert '<td class="n">1.582</td><td class="n">582</td><td class="n">1.000</td>' in page
    assert '<a href="#prova-b3_adjustments-legacy_csv">' in page
    assert 'href="#prova-b3_captures' not in page


def test_a_session_opens_to_its_first_keys_with_both_values(page: str) -> None:
    assert "2 sessões com problemas" in page
    assert "13/10/2025: faltam 1, sobram 1, diferem 1" in page
    assert "5528,504</td><td>(vazio)</td><td>ajustes_b3.csv, linha 194" in page
    assert "2025-10-13T12:00:00Z · &lt;b&gt;DI1 · X25</th><td>falta</td>" in page
    assert "14/10/2025: faltam 999" in page
    assert "as chaves não foram guardadas" in page


def test_without_a_report_the_page_says_how_one_is_made(desk: Desk, client: TestClient, tmp_path: Path) -> None:
    assert proof_of(tmp_path) is None
    assert "nenhum relatório ainda" in client.get("/paridade").text


def test_a_proof_that_holds_says_so_and_has_nothing_to_open(desk: Desk, client: TestClient, tmp_path: Path) -> None:
    parity_report.keep(tmp_path, {"ok": True, "tables": {}, "checks": []}, AT)
    desk.parity = replace(desk.parity, proof=proof_of(tmp_path))
    text = client.get("/paridade").text
    assert "tudo provado" in text
    assert "--repair" not in text
