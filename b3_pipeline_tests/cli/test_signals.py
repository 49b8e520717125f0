"""The commands on TP-Capital's signals, as a person or a script calls them, against real servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TP_TABLES
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.signals.exports import BOT, CHANNEL, SIGNAL, TOKEN, empty_vault, write

KEY = [
    "--ts",
    SIGNAL["timestamp"],
    "--channel",
    SIGNAL["channel"],
    "--type",
    SIGNAL["signalType"],
    "--asset",
    "ITUBX36",
]


@pytest.fixture
def home(home: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("B3_TOKEN_KEY", raising=False)
    empty_vault(postgres)
    return home


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    write(folder, "tp_capital_signals", SIGNAL, {**SIGNAL, "asset": "ABEVK122"})
    write(folder, "telegram_bots", BOT, {**BOT, "updated_at": "yesterday"})
    write(folder, "telegram_channels", CHANNEL)
    (folder / "ideas.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["clean", "dirty"])
def test_import_reports_exactly_the_expected_counts_and_then_that_nothing_changed(
    home: Path, shared: Path, name: str
) -> None:
    folder = shared / "data" / "lowdb" / name
    expected = json.loads((folder / "EXPECTED.json").read_text())["tables"]
    first = answer("signals", "import", folder)
    assert first["ok"]
    counts = {t: {c: n[c] for c in expected[t]} for t, n in first["tables"].items()}
    assert counts == {t.name: expected[t.name] for t in TP_TABLES}
    assert all(n["rows_in_table"] == n["loaded"] for n in first["tables"].values())
    again = answer("signals", "import", folder)
    assert again["tables"] == first["tables"]
    assert {f["outcome"] for f in again["files"]} == {"unchanged", "ignored"}


def test_a_token_is_in_no_file_of_the_home_and_in_no_output(home: Path, export: Path, db: QuestDB) -> None:
    shown = b3("signals", "import", export)
    listed = b3("quarantine", "list", "--json")
    [entry] = json.loads(listed.stdout)
    assert (entry["column"], entry["reason"]) == ("/1/updated_at", "bad_date")
    shown_too = b3("quarantine", "show", entry["id"])
    sql = b3("sql", "select * from telegram_bots_current")
    output = "".join(r.output for r in (shown, listed, shown_too, sql))
    files = b"\n".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    assert "vault:bot-1:" in output
    for text in (TOKEN, TOKEN.split(":")[1]):
        assert text not in output
        assert text.encode() not in files


def test_a_signal_is_deleted_after_asking_and_stays_deleted(home: Path, export: Path) -> None:
    b3("signals", "import", export)
    assert len(answer("signals", "list")) == 2
    asked = b3("signals", "delete", *KEY, given="n\n", code=1)
    assert "ITUBX36" in asked.output
    assert len(answer("signals", "list")) == 2
    b3("signals", "delete", *KEY, given="y\n")
    [left] = answer("signals", "list")
    assert (left["asset"], left["ts"], left["stop"]) == ("ABEVK122", "2025-10-11T12:15:40Z", 0.37)
    result = answer("signals", "delete", *KEY, "--yes")
    assert (result["ok"], result["deleted"], result["deleted_at"]) == (True, False, "2025-10-14T15:00:00Z")
    assert result["signal"]["asset"] == "ITUBX36"
    assert answer("signals", "import", export)["tables"]["tp_capital_signals"]["rows_in_table"] == 2
    assert len(answer("signals", "list")) == 1


def test_people_see_the_newest_signals(home: Path, export: Path) -> None:
    b3("signals", "import", export)
    shown = " ".join(b3("signals", "list", "--limit", 1).stdout.split())
    assert "2025-10-11 12:15:40" in shown
    assert "ABEVK122" in shown
    assert "ITUBX36" not in shown


def test_the_key_is_rotated_and_the_next_import_finds_everything_as_it_was(home: Path, export: Path) -> None:
    b3("signals", "import", export)
    before = (home / "secrets" / "token_key").read_text()
    assert answer("signals", "rotate-key")["ok"]
    assert (home / "secrets" / "token_key").read_text() != before
    again = answer("signals", "import", export)
    assert again["tables"]["telegram_bots"]["rejected"] == 1
    assert {f["outcome"] for f in again["files"]} == {"unchanged", "ignored"}


def test_rejected_records_alone_fail_only_a_strict_import(home: Path, export: Path) -> None:
    assert answer("signals", "import", export)["ok"]
    assert not answer("signals", "import", export, "--strict", code=1)["ok"]


def test_a_broken_file_exits_with_1_and_the_rest_is_loaded(home: Path, export: Path) -> None:
    (export / "telegram_bots.json").write_text('[{"token": "' + TOKEN)
    result = b3("signals", "import", export, "--json", code=1)
    assert TOKEN not in result.output
    outcomes = {f["name"]: f["outcome"] for f in json.loads(result.stdout)["files"]}
    assert outcomes["telegram_bots.json"] == "rejected"
    assert outcomes["tp_capital_signals.json"] == "loaded"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "/no/such/folder"], "is no folder"),
        (["import", "."], "none of TP-Capital's files"),
        (["list", "--limit", "0"], "--limit"),
        (["delete", "--ts", "2025-10-11 12:15", *KEY[2:], "--yes"], "YYYY-MM-DDTHH:MM:SSZ"),
        (["delete", *KEY, "--json"], "--yes"),
        (["delete", "--ts", SIGNAL["timestamp"]], "--channel"),
    ],
)
def test_wrong_usage_exits_with_2_and_a_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in b3("signals", *arguments, code=2).stderr


def test_a_signal_that_is_not_there_exits_with_1(home: Path) -> None:
    assert "No signal of" in answer("signals", "delete", *KEY, "--yes", code=1)["error"]


def test_a_key_that_is_no_key_is_a_sentence_without_it(
    home: Path, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_TOKEN_KEY", "hunter2")
    failed = b3("signals", "import", export, code=2)
    assert "B3_TOKEN_KEY" in failed.stderr
    assert "hunter2" not in failed.output


def test_views_that_are_gone_or_changed_are_drift_until_schema_apply(home: Path, db: QuestDB) -> None:
    db.execute("DROP VIEW telegram_bots_current")
    db.execute("CREATE OR REPLACE VIEW telegram_channels_current AS (SELECT * FROM telegram_channels)")
    drift = answer("schema", "diff", code=1)["tables"]
    assert drift["telegram_bots_current"]["server"] == ["the view is missing"]
    assert "asks something else" in drift["telegram_channels_current"]["server"][0]
    restored = answer("schema", "apply")["restored"]
    assert sorted(restored) == ["telegram_bots_current", "telegram_channels_current"]
    assert answer("schema", "diff")["ok"]


@pytest.mark.parametrize("command", ["import", "list", "delete", "rotate-key"])
def test_help_has_an_example(command: str) -> None:
    shown = b3("signals", command, "--help").stdout
    assert "Example" in shown
    assert f"b3 signals {command}" in shown
