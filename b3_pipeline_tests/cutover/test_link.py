"""The link of the desk's file readers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from b3_pipeline.cutover import link
from b3_pipeline.cutover.link import LinkBlocked
from b3_pipeline.settings import Settings
from b3_pipeline.shadow.files import SharedFolder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("legacy", "shadow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gamma.json").write_text(name)
    return Settings(home=tmp_path / "home", legacy_dir=tmp_path / "legacy", shadow_dir=tmp_path / "shadow")


@pytest.mark.parametrize(
    ("phase", "seen"), [("legacy", "legacy"), ("shadow", "legacy"), ("active", "shadow"), ("frozen", "shadow")]
)
def test_the_link_leads_where_the_phase_says(settings: Settings, phase: str, seen: str) -> None:
    assert link.follow(settings, phase)
    assert (settings.home / link.NAME / "gamma.json").read_text() == seen
    assert not link.follow(settings, phase)  # it leads there already


def test_a_reader_finds_a_file_at_every_moment_while_the_link_moves(settings: Settings) -> None:
    link.follow(settings, "legacy")
    stop, read = threading.Event(), []

    def reading() -> None:
        while not stop.is_set():
            read.append((settings.home / link.NAME / "gamma.json").read_text())

    reader = threading.Thread(target=reading)
    reader.start()
    for turn in range(400):
        link.follow(settings, "active" if turn % 2 else "legacy")
    stop.set()
    reader.join()
    assert set(read) <= {"legacy", "shadow"}
    assert os.listdir(settings.home) == [link.NAME]


def test_without_a_legacy_folder_there_is_nothing_to_lead_to(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", legacy_dir=None)
    assert not link.follow(settings, "legacy")
    assert link.current(settings.home) is None
    assert link.follow(settings, "active")
    assert link.current(settings.home) == settings.home / "shadow"


def test_what_is_no_link_stays(settings: Settings) -> None:
    settings.folder(link.NAME)
    with pytest.raises(LinkBlocked, match="Move it away"):
        link.follow(settings, "legacy")
    assert (settings.home / link.NAME).is_dir()


def test_readers_are_not_led_into_a_shadow_that_is_the_legacy_folder(settings: Settings) -> None:
    shared = Settings(home=settings.home, legacy_dir=settings.legacy_dir, shadow_dir=settings.legacy_dir)
    with pytest.raises(SharedFolder):
        link.follow(shared, "active")
