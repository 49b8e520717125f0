"""How the archive stands, also where it is damaged."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.loading.archived import archive_of, note_loaded
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.state import State
from b3_pipeline.standing import archived

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def archive(settings: Settings) -> Archive:
    """Two sources with five entries of six bytes each."""
    archive = archive_of(settings.home)
    for source in ("dxy_chart", "gamma"):
        for number in range(5):
            archive.append(source, b"state%d" % number, name="some.json", at=NOW)
    return archive


def file_of(archive: Archive, seq: int) -> Path:
    entry = archive.entry("dxy_chart", seq)
    assert entry is not None
    return archive.entry_path(entry)


def test_what_is_not_loaded_is_counted_with_what_is_wrong_with_the_source(settings: Settings, archive: Archive) -> None:
    note_loaded(archive, "dxy_chart", 3)
    State().failed(NOW, "no answer").write(archive.place("gamma"))
    assert archived(settings) == {
        "dxy_chart": {"newest": NOW, "behind": 2, "behind_bytes": 12, "problem": None},
        "gamma": {"newest": NOW, "behind": 5, "behind_bytes": 30, "problem": "no answer"},
    }


def test_what_follows_a_hole_in_the_archive_is_behind(settings: Settings, archive: Archive) -> None:
    note_loaded(archive, "dxy_chart", 2)
    file_of(archive, 3).unlink()
    found = archived(settings)["dxy_chart"]
    assert (found["newest"], found["behind"], found["behind_bytes"]) == (NOW, 3, 12)
    assert found["problem"] == "The archive has no entry 3, but later ones."


@pytest.mark.parametrize(("seq", "newest"), [(4, NOW), (5, None)])
def test_a_damaged_entry_is_its_own_sources_problem_only(
    settings: Settings, archive: Archive, seq: int, newest: datetime | None
) -> None:
    note_loaded(archive, "dxy_chart", 2)
    file_of(archive, seq).write_text("{")
    found = archived(settings)
    assert (found["dxy_chart"]["newest"], found["dxy_chart"]["behind"]) == (newest, 3)
    assert "cannot be read" in found["dxy_chart"]["problem"]
    assert (found["gamma"]["behind"], found["gamma"]["problem"]) == (5, None)
