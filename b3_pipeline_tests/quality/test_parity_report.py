"""The last parity report of a home: kept whole, read back, and never a reason to fail."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from b3_pipeline.quality import parity_report
from b3_pipeline.quality.parity_report import Proof, Proved

AT = datetime(2025, 10, 14, 15, tzinfo=UTC)


def test_what_is_kept_last_is_the_last(tmp_path: Path) -> None:
    assert parity_report.latest(tmp_path) is None
    parity_report.keep(tmp_path, {"ok": False}, AT)
    parity_report.keep(
        tmp_path, {"ok": True, "checks": [{"ts": datetime(2025, 10, 13, 9), "day": date(2025, 10, 13)}]}, AT
    )
    assert parity_report.latest(tmp_path) == {
        "at": "2025-10-14T15:00:00+00:00",
        "ok": True,
        "checks": [{"ts": "2025-10-13T09:00:00Z", "day": "2025-10-13"}],
    }
    assert [path.name for path in parity_report.path_of(tmp_path).parent.iterdir()] == ["last.json"]


def test_a_report_of_another_folder_or_that_forgives_is_none_of_the_homes(tmp_path: Path) -> None:
    own = tmp_path / "legacy"
    assert parity_report.stands(own, own)
    assert parity_report.stands(tmp_path / "x" / ".." / "legacy", own)
    assert parity_report.stands(None, None)
    assert not parity_report.stands(own, own, tolerance=1)
    assert not parity_report.stands(tmp_path, own)
    assert not parity_report.stands(own, None)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"at": 3}', '{"at": "yesterday"}', "\xff"])
def test_a_damaged_report_is_none(tmp_path: Path, text: str) -> None:
    parity_report.keep(tmp_path, {"ok": True}, AT)
    parity_report.path_of(tmp_path).write_bytes(text.encode("latin-1"))
    assert parity_report.latest(tmp_path) is None
    assert parity_report.proof(tmp_path) is None


def test_a_report_leads_from_a_table_and_feed_to_its_partitions(tmp_path: Path) -> None:
    numbers, partitions = {"missing": 1}, [{"partition": "2025-10-13", "missing": 1, "rows": []}]
    check = {"table": "b3_adjustments", "check": "parity_legacy_csv", "passed": False, "partitions": partitions}
    tables = {"b3_adjustments": {"legacy_csv": numbers}}
    parity_report.keep(tmp_path, {"ok": False, "tables": tables, "checks": [check]}, AT)
    found = Proved("b3_adjustments", "legacy_csv", False, numbers, partitions)
    assert parity_report.proof(tmp_path) == Proof(AT, False, [found])


def test_a_report_that_another_release_has_kept_is_no_proof(tmp_path: Path) -> None:
    parity_report.keep(tmp_path, {"ok": True, "tables": {"b3_adjustments": {"legacy_csv": {}}}, "checks": []}, AT)
    assert parity_report.proof(tmp_path) is None
