"""Rejected records on the command line: listed, exported, corrected, replayed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from b3_pipeline.metrics.files import FOLDER, read
from b3_pipeline.metrics.instruments import RECORDS, stop
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.cli.test_data import legacy  # noqa: F401 (a fixture)


@pytest.fixture
def folder(home: Path, legacy: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A legacy folder that was migrated: two files of the recorded dirty one."""
    folder = tmp_path / "legacy"
    folder.mkdir()
    for name in ("indicadores_b3.csv", "gamma.json"):
        shutil.copyfile(legacy / "dirty" / name, folder / name)
    b3("migrate", "--legacy", folder)
    return folder


def correct(file: Path, old: str, new: str) -> None:
    """What a person does in an editor: one text, and only behind `corrected`."""
    before, mark, after = file.read_text("utf-8").rpartition('"corrected"')
    assert old in after
    file.write_text(before + mark + after.replace(old, new), "utf-8")


def test_a_reject_is_exported_corrected_and_replayed_and_the_migration_stays_as_it_was(
    folder: Path, tmp_path: Path
) -> None:
    before = answer("migrate", "--legacy", folder)["tables"]
    file = tmp_path / "rejects.jsonl"
    exported = answer("quarantine", "export", file, "--table", "b3_gamma_levels")
    assert (exported["ok"], exported["items"], exported["records"], exported["left_out"]) == (True, 1, 1, [])
    correct(file, "n.d.", "6.600,00")
    result = answer("quarantine", "replay", file)
    assert result["ok"]
    assert result["unedited"] == 0
    assert [(load["table"], load["loaded"], load["revised"]) for load in result["loads"]] == [
        ("b3_gamma_levels", 1, 0),
        ("b3_captures", 1, 1),
    ]
    open_now = answer("quarantine", "list")
    everything = answer("quarantine", "list", "--all")
    assert len(everything) == len(open_now) + 1
    [replayed] = [e for e in everything if e["replayed_by"]]
    assert (replayed["table"], replayed["replayed_by"]) == ("b3_gamma_levels", result["loads"][0]["load_id"])
    assert answer("quarantine", "show", replayed["id"])["replayed_by"] == replayed["replayed_by"]
    again = answer("quarantine", "replay", file)
    assert {load["outcome"] for load in again["loads"]} == {"unchanged"}
    after = answer("migrate", "--legacy", folder)
    assert {f["outcome"] for f in after["files"] if f["name"] in ("indicadores_b3.csv", "gamma.json")} == {"unchanged"}
    counts = after["tables"]["b3_gamma_levels"]
    assert counts == {**before["b3_gamma_levels"], "rows_in_table": 2}


def test_an_export_without_a_correction_loads_nothing(folder: Path, tmp_path: Path) -> None:
    rows = answer("sql", "select count() n from b3_indicators_daily")
    file = tmp_path / "rejects.csv"
    exported = answer("quarantine", "export", file, "--file", "indicadores_b3.csv", "--reason", "field_count")
    assert exported["records"] == 8
    with file.open(encoding="utf-8", newline="") as lines:
        given = list(csv.DictReader(lines))
    assert len(given) == exported["items"] == 2
    assert all(item["original"] == item["corrected"] and item["header"].startswith("data") for item in given)
    result = answer("quarantine", "replay", file)
    assert result == {"ok": True, "loads": [], "unedited": 2}
    assert answer("sql", "select count() n from b3_indicators_daily") == rows
    still = answer("quarantine", "replay", file, "--unedited")
    assert [load["rejected"] for load in still["loads"]] == [8]


def test_people_are_told_what_to_edit_what_came_of_it_and_what_is_still_wrong(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rejects.jsonl"
    said = b3("quarantine", "export", file, "--reason", "bad_number", "--table", "b3_gamma_levels").output
    assert "edit `corrected`" in " ".join(said.split())
    assert "b3 quarantine replay" in " ".join(said.split())
    correct(file, "n.d.", "still nothing")
    said = b3("quarantine", "replay", file).output
    assert "in the quarantine again" in " ".join(said.split())
    assert "is there already" in " ".join(b3("quarantine", "export", file, code=2).output.split())


def test_a_correction_that_is_no_document_of_its_kind_exits_with_1(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rejects.jsonl"
    b3("quarantine", "export", file, "--table", "b3_gamma_levels")
    item = json.loads(file.read_text())
    file.write_text(file.read_text().rpartition('"corrected"')[0] + '"corrected": {"gammalevels": 1}}')
    result = answer("quarantine", "replay", file, code=1)
    assert not result["ok"]
    assert {load["outcome"] for load in result["loads"]} == {"rejected"}
    assert item["ids"][0] in {e["id"] for e in answer("quarantine", "list")}


def test_every_command_has_help_with_an_example() -> None:
    for command in ("list", "export", "replay"):
        text = b3("quarantine", command, "--help").stdout
        assert f"b3 quarantine {command}" in text
        assert "Example" in text


def test_a_migration_and_a_correction_reach_the_shadow_files_and_the_counters(
    home: Path,
    legacy: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = tmp_path / "legacy"
    folder.mkdir()
    shutil.copyfile(legacy / "dirty" / "gamma.json", folder / "gamma.json")
    b3("flags", "set", "shadow_files", "on", "--why", "a test")
    b3("migrate", "--legacy", folder)
    shadow = home / "shadow" / "gamma.json"
    assert "6.600,00" not in shadow.read_text("utf-8")
    b3("quarantine", "export", tmp_path / "rejects.jsonl", "--table", "b3_gamma_levels")
    correct(tmp_path / "rejects.jsonl", "n.d.", "6.600,00")
    b3("quarantine", "replay", tmp_path / "rejects.jsonl")
    assert "6.600,00" in shadow.read_text("utf-8")
    stop()
    counted = {
        sample.labels["outcome"]: sample.value
        for family in read(home / FOLDER)
        for sample in family.samples
        if sample.name == RECORDS.name and sample.labels["table"] == "b3_gamma_levels"
    }
    assert (counted["loaded"], counted["rejected"]) == (2, 1)
