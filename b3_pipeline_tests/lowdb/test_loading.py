"""Loading LowDB files into PostgreSQL: each record accounted for, each file whole or not at all, again without effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from b3_pipeline.loading.quarantine import Quarantine
from b3_pipeline.lowdb import loading
from b3_pipeline.lowdb.loading import COUNTS, STEPS
from b3_pipeline.lowdb.schema import upgrade
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.lowdb.recorded import (
    asked,
    counts,
    documentation,
    gone,
    idea,
    link,
    load,
    system,
    write,
)

_HISTORY = "select idea_id, action, who from ideas.idea_history order by id"


@pytest.fixture
def dsn(postgres: str) -> str:
    gone(postgres)
    upgrade(postgres)
    return postgres


def rejects(home: Path) -> list[tuple[Any, ...]]:
    """What is in quarantine."""
    return [(e.table, e.column, e.reason, e.value) for e in Quarantine(home / "quarantine").entries()]


@pytest.mark.parametrize("name", ["clean", "dirty"])
def test_the_recorded_files_give_exactly_the_expected_counts(shared: Path, dsn: str, tmp_path: Path, name: str) -> None:
    folder = shared / "data" / "lowdb" / name
    expected = json.loads((folder / "EXPECTED.json").read_text("utf-8"))["tables"]
    outcomes = [load(dsn, tmp_path, folder / file) for file in ("ideas.json", "db.json")]
    found = {each.table: each.counts for outcome in outcomes for each in outcome.tables}
    assert found == {table: {c: expected[table][c] for c in COUNTS} for table in found}
    assert len(found) == 5
    for table, each in found.items():
        assert asked(dsn, f"select count(*) from ideas.{table}") == [(each["loaded"],)]
        assert sum(row[0] == table for row in rejects(tmp_path)) == each["rejected"]
    assert asked(dsn, "select count(*) from ideas.idea_history") == [(found["ideas"]["loaded"],)]
    noted = asked(dsn, "select table_name, candidates, loaded, rejected, duplicate from ideas.loads")
    assert {table: tuple(rest) for table, *rest in noted} == {t: tuple(each.values()) for t, each in found.items()}


def test_a_second_run_changes_nothing(dsn: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [idea(1), idea(2), idea(2), idea(2, title="Outro"), idea(3, tags="x")])
    first = load(dsn, tmp_path, path)
    before = asked(dsn, "select * from ideas.loads"), asked(dsn, _HISTORY), rejects(tmp_path)
    again = load(dsn, tmp_path, path)
    assert (first.outcome, again.outcome) == ("loaded", "unchanged")
    assert counts(first) == counts(again) == {"ideas": (5, 2, 2, 1)}
    assert (asked(dsn, "select * from ideas.loads"), asked(dsn, _HISTORY), rejects(tmp_path)) == before


def test_a_changed_file_inserts_updates_and_removes_and_the_history_has_it_all(dsn: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [idea(1), idea(2), idea(3)])
    load(dsn, tmp_path, path)
    write(tmp_path / "in", [idea(4, tags=['a"b\\c', "{,}", ""]), idea(2, title="Outro"), idea(1)])
    done = load(dsn, tmp_path, path)
    assert counts(done) == {"ideas": (3, 3, 0, 0)}
    assert done.tables[0].changes == {"inserted": 1, "updated": 1, "removed": 1}
    assert asked(dsn, "select id, title from ideas.ideas order by id") == [
        (1, "Painel 1"),
        (2, "Outro"),
        (4, "Painel 4"),
    ]
    assert asked(dsn, "select tag from ideas.idea_tags where idea_id = 4 order by position") == [
        ('a"b\\c',),
        ("{,}",),
        ("",),
    ]
    assert asked(dsn, _HISTORY)[3:] == [(4, "insert", "test"), (2, "update", "test"), (3, "delete", "test")]


def test_ids_times_and_members_that_nobody_knows_are_kept(dsn: str, tmp_path: Path) -> None:
    given = idea(
        41, createdAt="2025-06-25T11:02:00.123456Z", more={"b": [1, "x"]}, updatedAt="2025-06-26T00:00:00.000Z"
    )
    load(dsn, tmp_path, write(tmp_path / "in", [given]))
    [row] = asked(dsn, "select id, created_at::text, updated_at::text, extra from ideas.ideas")
    assert row[0] == 41
    assert row[1].startswith("2025-06-25 11:02:00.123456")
    assert row[3] == {"more": {"b": [1, "x"]}}


def test_the_next_id_is_the_file_s_and_never_one_that_was_given(dsn: str, tmp_path: Path) -> None:
    def following(table: str) -> int:
        return asked(dsn, "select nextval(pg_get_serial_sequence(%s, 'id'))", f"ideas.{table}")[0][0]

    document = documentation(ideas=[idea(7)], links=[link(9, "7")], nextId=20, nextLinkId=3)
    load(dsn, tmp_path, write(tmp_path / "in", document, "db.json"))
    load(dsn, tmp_path, write(tmp_path / "in", [idea(5)]))
    tables = ("documentation_ideas", "documentation_links", "documentation_systems", "ideas")
    assert [following(table) for table in tables] == [20, 10, 1, 6]
    load(dsn, tmp_path, write(tmp_path / "in", []))
    assert following("ideas") == 7  # a removed idea's id is not given again


def test_references_are_to_ideas_of_the_file_wherever_they_stand(dsn: str, tmp_path: Path) -> None:
    links = [link(1, "1"), link(2, "9"), link(3, "2"), link(3, "2"), link(3, "1"), link(4, "x"), "text", None]
    ideas = [idea(1), idea(2, status="lost")]
    document = {"links": links, "files": [], "systems": [system(1), system(1)], "ideas": ideas}
    done = load(dsn, tmp_path, write(tmp_path / "in", document, "db.json"))
    assert counts(done) == {
        "documentation_systems": (2, 1, 0, 1),
        "documentation_ideas": (2, 1, 1, 0),
        "documentation_links": (8, 2, 6, 0),
        "documentation_files": (0, 0, 0, 0),
    }
    assert asked(dsn, "select id, idea_id from ideas.documentation_links order by id") == [(1, 1), (3, 1)]
    assert [each[1:] for each in rejects(tmp_path) if each[0] == "documentation_links"] == [
        ("/links/1/idea_id", "out_of_bounds", "9"),
        ("/links/2/idea_id", "out_of_bounds", "2"),
        ("/links/3/idea_id", "out_of_bounds", "2"),
        ("/links/5/idea_id", "bad_number", "x"),
        ("/links/6", "bad_text", None),
        ("/links/7", "bad_text", None),
    ]


def test_an_idea_that_goes_takes_its_links_along(dsn: str, tmp_path: Path) -> None:
    document = documentation(ideas=[idea(1), idea(2)], links=[link(1, "1"), link(2, "2")])
    load(dsn, tmp_path, write(tmp_path / "in", document, "db.json"))
    done = load(dsn, tmp_path, write(tmp_path / "in", documentation(ideas=[idea(2)], links=[link(1, "1")]), "db.json"))
    removed = {each.table: each.removed for each in done.tables}
    assert (removed["documentation_ideas"], removed["documentation_links"]) == (1, 2)
    assert counts(done)["documentation_links"] == (1, 0, 1, 0)


@pytest.mark.parametrize("data", [b'{"ideas": [{"id": "1"', '{"ideas": ["ção"]}'.encode("latin-1"), b""])
def test_a_file_that_is_none_is_rejected_whole_and_nothing_of_it_is_loaded(
    dsn: str, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BATCH", 2)
    load(dsn, tmp_path, write(tmp_path / "in", [idea(1)]))
    whole = write(tmp_path / "in", [idea(n) for n in range(1, 8)]).read_bytes()
    (tmp_path / "in" / "ideas.json").write_bytes(whole.rstrip()[:-3] + b"," + data[11:] if data else data)
    done = load(dsn, tmp_path, tmp_path / "in" / "ideas.json")
    assert (done.outcome, done.tables) == ("rejected", ())
    assert "A copy is kept as" in (done.reason or "")
    assert asked(dsn, "select count(*) from ideas.ideas") == [(1,)]
    assert asked(dsn, "select count(*) from ideas.loads") == [(1,)]


def test_readers_see_the_tables_as_they_were_until_a_load_is_done(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(dsn, tmp_path, write(tmp_path / "in", [idea(1)]))
    seen: list[Any] = []

    def look(step: str) -> None:
        if step != STEPS[4]:
            seen.append(asked(dsn, "select id, title from ideas.ideas"))
            with psycopg.connect(dsn, options="-c lock_timeout=10") as db:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    db.execute("update ideas.ideas set title = 'x'")
                db.rollback()

    monkeypatch.setattr(loading, "reached", look)
    load(dsn, tmp_path, write(tmp_path / "in", [idea(1, title="Outro"), idea(2)]))
    assert seen
    assert all(rows == [(1, "Painel 1")] for rows in seen)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(1, 5), st.sampled_from("abx")), max_size=9), min_size=1, max_size=3))
def test_whatever_repeats_the_account_closes_and_the_first_stands(
    dsn: str, tmp_path: Path, files: list[list[tuple[int, str]]]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loading, "BATCH", 2)
        for content in files:  # "x" may not be
            records = [idea(number, title=title, status="new" if title != "x" else "?") for number, title in content]
            done = load(dsn, tmp_path, write(tmp_path / "in", records), again=True)
            good = [(number, title) for number, title in content if title != "x"]
            first = dict(reversed(good))
            equal = sum(first[number] == title for number, title in good) - len(first)
            assert counts(done) == {"ideas": (len(content), len(first), len(content) - len(first) - equal, equal)}
            assert dict(asked(dsn, "select id, title from ideas.ideas")) == first


_LOAD = """
import sys
from pathlib import Path
from b3_pipeline.lowdb import loading
loading.BATCH = 2
from b3_pipeline_tests.lowdb.recorded import load
dsn, home, file = sys.argv[1:]
load(dsn, Path(home), Path(file))
"""


@pytest.mark.parametrize("step", some(STEPS, few=3))
def test_a_load_that_was_killed_at_any_step_is_finished_by_the_next(dsn: str, tmp_path: Path, step: str) -> None:
    load(dsn, tmp_path, write(tmp_path / "in", [idea(1), idea(9)]))
    path = write(tmp_path / "in", [idea(1, title="Outro"), idea(2), idea(3), idea(3, title="x"), idea(4, title="")])
    command = [sys.executable, "-c", _LOAD, dsn, str(tmp_path), str(path)]
    killed = subprocess.run(command, env={**os.environ, "B3_DIE_AT": step}, check=False)
    assert killed.returncode == -9
    ids = asked(dsn, "select id, title from ideas.ideas order by id")
    whole = [(1, "Outro"), (2, "Painel 2"), (3, "Painel 3")]
    assert ids == (whole if step == STEPS[4] else [(1, "Painel 1"), (9, "Painel 9")])
    done = load(dsn, tmp_path, path)
    assert counts(done) == {"ideas": (5, 3, 2, 0)}
    assert asked(dsn, "select id, title from ideas.ideas order by id") == whole
    assert asked(dsn, "select count(*) from ideas.loads") == [(2,)]
    assert sorted(each[2] for each in rejects(tmp_path)) == ["bad_text", "conflicting_duplicate"]


def test_two_loads_at_once_wait_for_one_another(dsn: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [idea(number) for number in range(1, 200)])
    failed: list[BaseException] = []

    def run() -> None:
        try:
            load(dsn, tmp_path, path, again=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert asked(dsn, "select count(*) from ideas.ideas") == asked(dsn, "select count(*) from ideas.idea_history")
