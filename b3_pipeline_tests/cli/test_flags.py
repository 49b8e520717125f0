"""The commands on flags, as a person or a script calls them, against a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import payload
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.cli.commands import answer, b3

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


@pytest.fixture
def home(home: Path, postgres: str) -> Iterator[Path]:
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop table if exists b3.flags")
        yield home
        db.execute("drop table if exists b3.flags")


def shown(**entries: str) -> dict[str, str]:
    return {f"{e['domain']} {e['name']}": e["value"] for e in answer("flags")} | entries


def test_flags_are_listed_with_who_and_why_once_set(home: Path) -> None:
    assert shown() == {
        "market phase": "legacy",
        "market shadow_files": "off",
        "ideas phase": "legacy",
        "ideas shadow_files": "off",
    }
    done = answer("flags", "set", "shadow_files", "on", "--why", "agreed with the desk", "--who", "ana")
    assert (done["ok"], done["value"], done["who"]) == (True, "on", "ana")
    answer("flags", "set", "shadow_files", "on", "--why", "try", "--domain", "ideas")
    assert shown()["market shadow_files"] == "on"
    [files] = [e for e in answer("flags") if (e["domain"], e["name"]) == ("market", "shadow_files")]
    assert files == {
        "domain": "market",
        "name": "shadow_files",
        "value": "on",
        "since": "2025-10-14T15:00:00+00:00",
        "who": "ana",
        "why": "agreed with the desk",
        "stale": False,
    }
    assert [(e["domain"], e["name"]) for e in answer("flags", "history")] == [
        ("ideas", "shadow_files"),
        ("market", "shadow_files"),
    ]
    assert "agreed" in b3("flags", "history", "--limit", "5").stdout
    assert "agreed" in b3("flags").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["phase", "shadow"], "--why"),
        (["phase", "shadow", "--why", " "], "Say why"),
        (["phase", "on", "--why", "x"], "legacy, shadow, active, frozen"),
        (["phases", "on", "--why", "x"], "phase or shadow_files"),
        (["phase", "shadow", "--why", "x", "--domain", "stocks"], "market or ideas"),
        (["phase", "shadow", "--why", "x"], "b3 cutover advance"),
    ],
)
def test_what_cannot_be_set_is_wrong_usage(home: Path, arguments: list[str], said: str) -> None:
    failed = b3("flags", "set", *arguments, code=2)
    assert said in " ".join(failed.stderr.split())


def test_without_postgresql_the_last_known_flags_are_shown_and_that_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b3("flags", "set", "shadow_files", "on", "--why", "x")
    monkeypatch.setenv("B3_POSTGRES_DSN", "postgresql://u:hunter2@127.0.0.1:1/x")
    listed = b3("flags")
    assert "last known" in listed.stderr
    assert " on " in listed.stdout
    assert {e["stale"] for e in answer("flags")} == {True}
    assert shown()["market shadow_files"] == "on"
    failed = b3("flags", "set", "shadow_files", "off", "--why", "x", code=1)
    assert "does not answer" in " ".join(failed.stderr.split())
    assert "hunter2" not in failed.output + listed.output


def test_no_server_is_started_only_to_be_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("B3_POSTGRES_DSN")
    assert "last known" in b3("flags").stderr
    assert {e["stale"] for e in answer("flags")} == {True}


def test_the_shadow_files_are_written_anew_from_the_tables(home: Path, db: QuestDB, shared: Path) -> None:
    tick = (shared / "data" / "legacy" / "clean" / "dxy_coleta.csv").absolute()
    Loader(db, home, lambda: NOW).load(payload(tick, LEGACY_KINDS[3]), TABLES["b3_dxy_ticks"])
    done = answer("flags", "refresh-shadow")
    outcomes = {file["file"]: file["outcome"] for file in done["files"]}
    assert done["ok"]
    assert {file for file, outcome in outcomes.items() if outcome == "written"} == {"dxy_coleta.csv"}
    assert len(outcomes) == 6
    assert (home / "shadow" / "dxy_coleta.csv").read_text().count("\n") == 8
    assert "dxy_coleta.csv" in b3("flags", "refresh-shadow").stdout
    (home / "shadow" / "historico").rmdir()
    (home / "shadow").rename(home / "elsewhere")
    (home / "shadow").write_text("in the way")
    assert not answer("flags", "refresh-shadow", code=1)["ok"]


def test_a_shadow_in_the_legacy_folder_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B3_LEGACY_DIR", str(home))
    assert "B3_SHADOW_DIR" in answer("flags", "refresh-shadow", code=2)["error"]


@pytest.mark.parametrize("command", [[], ["set"], ["history"], ["refresh-shadow"]])
def test_help_has_an_example(command: list[str]) -> None:
    text = b3("flags", *command, "--help").stdout
    assert "Example" in text
    assert " ".join(["b3", "flags", *command]) in text
