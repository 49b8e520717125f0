"""The commands on the LowDB files, as a person or a script calls them, against real servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from b3_pipeline.cli import services
from b3_pipeline.lowdb.schema import prepare
from b3_pipeline.postgres.flags import set_flag
from b3_pipeline.settings import Settings
from b3_pipeline.signals.hiding import HIDDEN
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.lowdb.recorded import NOW, gone, idea, load, write
from b3_pipeline_tests.signals.exports import TOKEN, empty_vault


@pytest.fixture
def home(home: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("B3_TOKEN_KEY", raising=False)
    monkeypatch.delenv("B3_LOWDB_DIR", raising=False)
    empty_vault(postgres)
    gone(postgres)
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop table if exists b3.flags")
    return home


@pytest.mark.parametrize("name", ["clean", "dirty"])
def test_migrate_reports_exactly_the_expected_counts(home: Path, shared: Path, name: str) -> None:
    folder = shared / "data" / "lowdb" / name
    expected = json.loads((folder / "EXPECTED.json").read_text("utf-8"))["tables"]
    first = answer("lowdb", "migrate", folder)
    assert first["ok"]
    assert first["tables"] == expected
    assert not first["unchanged"]
    listed = json.loads(b3("quarantine", "list", "--json").stdout)
    assert len(listed) == sum(counts["rejected"] for counts in expected.values())
    assert answer("lowdb", "parity", folder)["ok"]
    status = answer("lowdb", "status")
    assert status["phase"] == "legacy"
    rows = {item["table"]: item["rows"] for item in status["items"]}
    assert len(rows) == 5
    assert rows == {table: expected[table]["loaded"] for table in rows}


def test_a_second_run_changes_nothing(home: Path, shared: Path) -> None:
    folder = shared / "data" / "lowdb" / "dirty"
    first, again = (answer("lowdb", "migrate", folder) for _ in range(2))
    assert (again["tables"], again["unchanged"], again["backup"]) == (first["tables"], True, None)


def test_a_folder_without_signals_is_shown_to_people(home: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [idea(1), idea(2, status="?")]).parent
    shown = b3("lowdb", "migrate", folder).output
    assert "Rejected records are kept" in shown
    assert "db.json" in shown
    assert "ideas" in b3("lowdb", "status").output
    assert not answer("lowdb", "migrate", folder, "--strict", code=1)["ok"]
    write(folder, [idea(1, title="Outro")])
    differs = b3("lowdb", "parity", folder, code=1).output
    assert "Outro" in differs


def test_a_token_that_somebody_wrote_into_an_idea_is_in_no_file_of_the_home_but_the_backup_and_in_no_output(
    home: Path, tmp_path: Path
) -> None:
    planted = [
        idea(1, description=f"o bot {TOKEN}"),
        idea(2, title=TOKEN, status="?"),
        idea(3, priority="x" * 165 + TOKEN),  # of what is wrong the first 200 letters are shown
        idea(4, status="?", **{TOKEN: 1}),
    ]
    folder = write(tmp_path / "in", planted).parent
    shown = b3("lowdb", "migrate", folder)
    write(folder, [idea(1, description=f"outro {TOKEN}"), *planted[1:]])
    differs = b3("lowdb", "parity", folder, "--json", code=1)
    listed = b3("quarantine", "list", "--json")
    entries = [b3("quarantine", "show", entry["id"]).output for entry in json.loads(listed.stdout)]
    output = "".join([shown.output, differs.output, listed.output, *entries])
    kept = [p for p in home.rglob("*") if p.is_file() and not p.is_relative_to(home / "lowdb")]
    assert len(entries) == 3
    assert HIDDEN in output
    assert "outro" in differs.output
    for text in (TOKEN, TOKEN.split(":")[1][:20]):
        assert text not in output
        assert not [path for path in kept if text.encode() in path.read_bytes()]


def test_synthetic_ideas_go_into_tables_of_the_homes_own_in_which_there_has_never_been_anything(
    home: Path, tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(postgres, home, lambda: NOW)
    services._load_ideas(Settings(home=home, lowdb_dir=tmp_path, postgres_dsn=None), postgres)
    services._load_ideas(Settings(home=home, postgres_dsn=SecretStr(postgres)), postgres)
    own = Settings(home=home, postgres_dsn=None)
    folder = home / services._SAMPLE_IDEAS
    assert not folder.exists()
    given: list[Path] = []

    def failing(folder: Path, *, show: bool) -> dict[str, Any]:
        given.append(folder)
        return {"ok": False, "errors": ["pg_dump ended with 1"]}

    monkeypatch.setattr("b3_pipeline.cli.lowdb.migrate_folder", failing)
    services._load_ideas(own, postgres)
    assert given == [folder]
    assert "pg_dump ended with 1" in capsys.readouterr().err
    [ideas, _] = sorted(folder.iterdir(), reverse=True)
    load(postgres, home, ideas)
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("delete from ideas.ideas")
    services._load_ideas(own, postgres)
    assert given == [folder]


def test_a_file_that_is_cut_off_fails_with_its_reason(home: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [idea(1)])
    path.write_text(path.read_text("utf-8")[:-4], "utf-8")
    failed = answer("lowdb", "migrate", path.parent, code=1)
    assert not failed["ok"]
    assert "cut off" in failed["errors"][0]
    assert failed["tables"]["ideas"]["candidates"] == 0


def test_what_cannot_be_loaded_is_told(home: Path, tmp_path: Path, postgres: str) -> None:
    assert "is no folder" in answer("lowdb", "migrate", tmp_path / "nowhere", code=2)["error"]
    assert "Which folder?" in answer("lowdb", "parity", code=2)["error"]
    assert not answer("lowdb", "status", code=1)["ok"]
    folder = write(tmp_path / "in", [idea(1)]).parent
    set_flag(postgres, "phase", "active", why="test", at=NOW, domain="ideas")
    assert "PostgreSQL is the truth" in answer("lowdb", "migrate", folder, code=1)["error"]


def test_a_row_that_somebody_changed_is_not_written_over_unless_it_is_asked_for(
    home: Path, tmp_path: Path, postgres: str
) -> None:
    folder = write(tmp_path / "in", [idea(1), idea(2)]).parent
    answer("lowdb", "migrate", folder)
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("update ideas.ideas set title = 'x' where id = 2")
    told = answer("lowdb", "migrate", folder, code=1)
    assert "Somebody else has written ideas since" in told["errors"][0]
    [first] = answer("lowdb", "parity", folder, code=1)["tables"]["ideas"]["first"]
    assert first == {"id": 2, "file": {"title": "Painel 2"}, "table": {"title": "x"}}
    assert answer("lowdb", "migrate", folder, "--again")["ok"]
    assert answer("lowdb", "parity", folder)["ok"]
