"""`b3 validate`, as a person or a script calls it, against real servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from b3_pipeline.quality import parity_report
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.quality.conftest import ADJUSTMENTS, Desk


@pytest.fixture
def desk(home: Path, db: QuestDB, shared: Path, tmp_path: Path) -> Desk:
    """A folder with settlement prices and captures, loaded into the home that commands use."""
    folder = tmp_path / "legacy"
    folder.mkdir()
    for name in (ADJUSTMENTS, "ultimo_dado.json", "gamma.json"):
        shutil.copyfile(shared / "data" / "legacy" / "clean" / name, folder / name)
    desk = Desk(db, home, folder)
    desk.load()
    return desk


def test_a_proof_that_holds_is_ok_and_has_the_numbers_of_every_table_and_feed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_LEGACY_DIR", str(desk.folder))
    result = answer("validate", "--legacy", desk.folder)
    assert set(result) == {"ok", "tables", "payloads", "checks", "repaired", "errors"}
    assert (result["ok"], result["errors"], result["repaired"]) == (True, [], [])
    assert result["tables"]["b3_adjustments"] == {
        "legacy_csv": {
            "source_keys": 582,
            "table_keys": 582,
            "missing": 0,
            "extra": 0,
            "different": 0,
            "rejected": 0,
            "expired": 0,
        }
    }
    assert set(result["tables"]) == {
        *("b3_snapshots", "b3_indicators", "b3_vol_surface", "b3_gamma_levels", "b3_adjustments", "b3_captures")
    }
    assert result["payloads"] == {"compared": 2, "different": 0}
    assert parity_report.latest(desk.home) == {"at": "2025-10-14T15:00:00+00:00", **result}


def test_a_proof_that_forgives_or_is_of_another_folder_is_not_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not kept" in " ".join(b3("validate", "--legacy", desk.folder).stderr.split())
    monkeypatch.setenv("B3_LEGACY_DIR", str(desk.folder))
    assert answer("validate", "--tolerance", "1")["ok"]
    assert parity_report.latest(desk.home) is None
    assert "is not kept" not in b3("validate").stderr
    assert parity_report.latest(desk.home) is not None


def test_a_defect_exits_with_1_and_repair_mends_it(desk: Desk) -> None:
    desk.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    broken = answer("validate", "--legacy", desk.folder, code=1)
    assert broken["tables"]["b3_adjustments"]["legacy_csv"]["missing"] == 57
    assert any("--repair" in error for error in broken["errors"])
    mended = answer("validate", "--legacy", desk.folder, "--repair")
    assert mended["ok"]
    assert [(a["table"], a["action"], a["file"]) for a in mended["repaired"]] == [
        ("b3_adjustments", "loaded again", ADJUSTMENTS)
    ]


def test_without_a_folder_the_captures_prove_themselves_and_the_rest_is_said_to_have_no_source(desk: Desk) -> None:
    result = answer("validate", code=1)
    red = {(c["table"], c["check"]) for c in result["checks"] if c["severity"] == "ERROR" and not c["passed"]}
    assert red == {("b3_adjustments", "parity_legacy_csv")}
    assert "no source" in result["errors"][0]


def test_people_see_parity_and_the_first_offending_keys_with_advice(desk: Desk) -> None:
    desk.sql("update b3_adjustments set price_settlement = 1 where ts in '2025-01-08'", "b3_adjustments")
    shown = b3("validate", "--legacy", desk.folder, code=1)
    text = " ".join(shown.stdout.split())
    assert "legacy_csv" in text
    assert "2025-01-08" in text
    assert "b3 validate --repair" in " ".join(shown.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["--legacy", "/no/such/folder"], ["--tolerance", "-1"], ["--nonsense"]], ids=lambda a: a[0]
)
def test_wrong_usage_exits_with_2(home: Path, arguments: list[str]) -> None:
    assert b3("validate", *arguments, code=2).stderr.strip()
