"""Collecting by hand and the raw archive on the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.parsing.kinds import GAMMA_LEVELS
from b3_pipeline.sources import catalog
from b3_pipeline.sources.archive import FOLDER, Archive
from b3_pipeline.sources.catalog import Source
from b3_pipeline.sources.fetching import Fetched, NotYet, Refused, Unchanged, Unreachable
from b3_pipeline_tests.cli.commands import answer, b3


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any database: these commands need none."""
    monkeypatch.setenv("B3_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("B3_NOW", "2025-11-03T15:00:00+00:00")
    for variable in ("B3_LEGACY_DIR", "B3_QUESTDB_URL", "B3_POSTGRES_DSN", "B3_REPLAY_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home"


@pytest.fixture
def gives(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Fetched | Exception], None]:
    """Lets the source gamma_levels answer so."""

    def give(given: Fetched | Exception) -> None:
        def fetch(*_: object) -> Fetched:
            if isinstance(given, Exception):
                raise given
            return given

        monkeypatch.setattr(catalog, "SOURCES", {"gamma_levels": Source(GAMMA_LEVELS, "", fetch)})

    return give


@pytest.fixture
def archive(home: Path) -> Archive:
    archive = Archive(home / FOLDER)
    for month in (9, 10, 11):
        at = datetime(2025, month, 1, tzinfo=UTC)
        archive.append("gamma", b"%d" % month, name="gamma.json", at=at)
    return archive


def test_a_collection_by_hand_says_what_came(gives: Callable[..., None], home: Path) -> None:
    gives(Fetched("gamma_levels.json", b"{}", "https://example.org/levels", 200))
    result = answer("collect", "gamma_levels")
    assert (result["ok"], result["outcome"], result["problem"]) == (True, "new", None)
    assert result["entry"]["seq"] == 1
    assert result["entry"]["at"] == "2025-11-03T15:00:00+00:00"
    assert answer("collect", "gamma_levels")["outcome"] == "unchanged"
    assert "has nothing new" in b3("collect", "gamma_levels").output
    gives(Fetched("gamma_levels.json", b"[]", "https://example.org/levels", 200))
    assert "https://example.org/levels" in b3("collect", "gamma_levels").output
    assert answer("archive", "list")[0]["last"] == 2


@pytest.mark.parametrize(
    ("given", "outcome", "code"),
    [
        (Unchanged(), "unchanged", 0),
        (NotYet("It is not there (404)."), "not_yet", 0),
        (Refused("It is HTML, and no JSON.", b"<html>"), "refused", 1),
        (Unreachable("No answer in time."), "failed", 1),
    ],
)
def test_what_came_of_it_is_in_the_exit_code(
    gives: Callable[..., None], given: Exception, outcome: str, code: int
) -> None:
    gives(given)
    result = answer("collect", "gamma_levels", code=code)
    assert (result["ok"], result["outcome"], result["entry"]) == (code == 0, outcome, None)
    said = b3("collect", "gamma_levels", code=code).output
    assert str(given) in said


def test_a_wrong_call_is_said_with_what_there_is(home: Path) -> None:
    assert "settlement_report" in b3("collect", "nothing", code=2).output
    assert "goes with a SOURCE" in b3("collect", "--json", code=2).output
    assert "has nothing in the archive" in b3("archive", "list", "gamma", code=2).output
    assert answer("archive", "list") == []


def test_the_archive_is_listed_verified_exported_and_pruned(archive: Archive, home: Path, tmp_path: Path) -> None:
    [listed] = answer("archive", "list")
    assert (listed["source"], listed["first"], listed["last"], listed["exported"]) == ("gamma", 1, 3, 0)
    assert [entry["seq"] for entry in answer("archive", "list", "gamma", "--limit", "2")] == [3, 2]
    assert answer("archive", "verify") == {"ok": True, "entries": 3, "faults": []}
    done = answer("archive", "export", tmp_path / "export")
    assert [item["name"] for item in done["items"]] == ["gamma 2025-09", "gamma 2025-10"]
    assert all(Path(item["path"]).is_file() for item in done["items"])
    [kept] = answer("archive", "prune", "--before", "2025-10-15")["items"]
    assert (kept["rows"], kept["kept_for"]) == (0, "it is not loaded yet")
    (home / "archive/gamma/loaded.json").write_text('{"seq": 3}')
    [pruned] = answer("archive", "prune", "gamma", "--before", "2025-10-15")["items"]
    assert (pruned["rows"], pruned["action"]) == (2, "pruned")
    assert answer("archive", "list")[0]["first"] == 3


def test_people_get_tables(archive: Archive, tmp_path: Path) -> None:
    assert "gamma" in b3("archive", "list").output
    assert "3 of 3 entries" in b3("archive", "list", "gamma").output
    assert "all of them as they were received" in b3("archive", "verify").output
    said = b3("archive", "export", tmp_path / "export").output
    assert "Exporting gamma 2025-09: entries 1 to 1." in said
    assert "Nothing to export" in b3("archive", "export", tmp_path / "export").output
    assert "it is not loaded yet" in b3("archive", "prune", "--before", "2025-10-15").output


def test_damage_is_listed_and_exits_with_1(archive: Archive) -> None:
    entry = archive.entry("gamma", 2)
    assert entry is not None
    archive.payload_path(entry).write_bytes(b"damaged")
    result = answer("archive", "verify", code=1)
    assert [fault["seq"] for fault in result["faults"]] == [2]
    assert "damaged" in b3("archive", "verify", code=1).output


def test_every_command_has_help_with_an_example(home: Path) -> None:
    for command in (["collect"], *(["archive", name] for name in ("list", "verify", "export", "prune"))):
        text = b3(*command, "--help").stdout
        assert f"b3 {' '.join(command)}" in text
        assert "Example" in text
