"""`b3 gaps`, as a person or a script calls it, against real servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
import pytest

from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.quality.conftest import ADJUSTMENTS, Desk


@pytest.fixture
def desk(home: Path, db: QuestDB, postgres: str, shared: Path, tmp_path: Path) -> Desk:
    """Settlement prices of 2025 to October, of which March is lost."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop table if exists b3.known_gaps, b3.gap_attempts")
    folder = tmp_path / "legacy"
    folder.mkdir()
    shutil.copyfile(shared / "data" / "legacy" / "clean" / ADJUSTMENTS, folder / ADJUSTMENTS)
    desk = Desk(db, home, folder)
    desk.load()
    desk.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    return desk


def of_march(result: dict) -> list[tuple[str, str]]:
    return [(gap["session"], gap["state"]) for gap in result["gaps"] if gap["session"].startswith("2025-03")]


def test_gaps_are_listed_and_exit_with_1(desk: Desk) -> None:
    result = answer("gaps", "--from", "2025-03-06", "--to", "2025-03-07", code=1)
    assert result == {
        "ok": False,
        "gaps": [
            {
                "feed": "legacy_csv",
                "table": "b3_adjustments",
                "session": f"2025-03-{day}",
                "part": "",
                "available_until": None,
                "sessions_left": None,
                "state": "open",
                "why": "",
            }
            for day in ("06", "07")
        ],
        "unmarked": [],
    }


def test_a_feed_without_gaps_is_well(desk: Desk) -> None:
    assert answer("gaps", "--feed", "b3_sprd")["ok"]


def test_repair_loads_what_the_folder_has_and_marks_what_nobody_has(desk: Desk) -> None:
    march = ("--from", "2025-03-01", "--to", "2025-03-31")
    before = desk.db.scalar("select count() from b3_adjustments")
    result = answer("gaps", "--repair", "--legacy", desk.folder, *march)
    assert result["ok"]
    states = of_march(result)
    assert ("2025-03-31", "repaired") in states
    assert desk.db.scalar("select count() from b3_adjustments") == before + 57
    assert of_march(answer("gaps", "--repair", "--legacy", desk.folder, *march)) == [
        each for each in states if each[1] == "known"
    ]


def test_a_session_is_marked_with_a_reason_and_unmarked_again(desk: Desk) -> None:
    day = ("--from", "2025-03-06", "--to", "2025-03-06")
    marked = answer("gaps", "mark", "legacy_csv", "2025-03-06", "--why", "o coletor ficou parado")
    assert marked["marked"] == [{"feed": "legacy_csv", "table": "b3_adjustments", "session": "2025-03-06", "part": ""}]
    [gap] = answer("gaps", *day)["gaps"]
    assert (gap["state"], gap["why"]) == ("known", "o coletor ficou parado")
    assert answer("gaps", "mark", "legacy_csv", "2025-03-06", "--why", "again")["marked"] == []
    assert len(answer("gaps", "unmark", "legacy_csv", "2025-03-06")["unmarked"]) == 1
    assert answer("gaps", *day, code=1)["gaps"][0]["state"] == "open"


def test_people_see_a_line_a_session_and_what_to_do(desk: Desk) -> None:
    shown = b3("gaps", "--from", "2025-03-06", "--to", "2025-03-07", code=1)
    assert "2025-03-06" in shown.stdout
    assert "legacy_csv" in shown.stdout
    assert "2 open, 0 repaired, 0 known" in shown.stderr
    assert "b3 gaps --repair" in " ".join(shown.stderr.split())
    assert "Marked: legacy_csv b3_adjustments 2025-03-06." in (
        " ".join(b3("gaps", "mark", "legacy_csv", "2025-03-06", "--why", "-").stderr.split())
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mark", "legacy_csv", "2025-04-01", "--why", "-"], "nothing is missing"),
        (["mark", "no_such_feed", "2025-03-06", "--why", "-"], "nothing is missing"),
        (["mark", "legacy_csv", "2025-03-06", "--why", "-", "--part", "gamma"], "nothing is missing"),
        (["unmark", "legacy_csv", "2025-03-06"], "no gap is marked"),
        (["--from", "2025-03-07", "--to", "2025-03-06"], "before"),
        (["--from", "yesterday"], "yesterday"),
        (["mark", "legacy_csv", "2025-03-06"], "--why"),
        (["--repair", "--legacy", "/no/such/folder"], "no folder"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_wrong_usage_exits_with_2_and_a_sentence(desk: Desk, arguments: list[str], sentence: str) -> None:
    assert sentence in " ".join(b3("gaps", *arguments, code=2).stderr.split())


@pytest.mark.parametrize("arguments", [["gaps"], ["gaps", "mark"], ["gaps", "unmark"]], ids=" ".join)
def test_help_shows_examples(arguments: list[str]) -> None:
    assert "Example" in b3(*arguments, "--help").stdout
