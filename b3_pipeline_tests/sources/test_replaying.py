"""A recording comes in again: each entry once and in order, at its pace, also when the process is killed in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from b3_pipeline.clock import Pace, set_clock
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import FOLDER, Archive, ArchiveFull, Entry
from b3_pipeline.sources.replaying import NoRecording, Replay
from b3_pipeline.sources.state import State
from b3_pipeline_tests.waiting import until


@pytest.fixture(autouse=True)
def all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay asks nobody, so nothing has to be off."""
    monkeypatch.delenv("B3_SOURCES_OFF")


START = datetime(2025, 10, 14, 12, tzinfo=UTC)
SOURCES = ("gamma", "settlement_report", "ultimo_dado")
KILLS = 6


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def recording(tmp_path: Path) -> Archive:
    """Sixty entries of three sources within ten minutes, with contents that come back."""
    archive = Archive(tmp_path / "recording")
    for number in range(60):
        source = SOURCES[number % 3]
        archive.append(
            source,
            b"state %d" % (number // 3 % 4),
            name=f"{source}.json",
            at=at(number * 10),
            url="https://example.org" if source == "settlement_report" else None,
            status=200,
            session=date(2025, 10, 14),
            etag=f'"{number}"',
        )
    return archive


@pytest.fixture
def settings(tmp_path: Path, recording: Archive) -> Settings:
    return Settings(home=tmp_path / "home", replay_dir=recording.folder)


def replayed(settings: Settings) -> dict[str, list[Entry]]:
    archive = Archive(settings.home / FOLDER)
    return {source: list(archive.after(source, 0)) for source in SOURCES}


def same(settings: Settings, recording: Archive) -> None:
    """The home has all of the recording, once, and with the same numbers."""
    archive = Archive(settings.home / FOLDER)
    for source, entries in replayed(settings).items():
        given = list(recording.after(source, 0))
        assert [(e.seq, e.name, e.sha256, e.session, e.status, e.etag) for e in entries] == [
            (e.seq, e.name, e.sha256, e.session, e.status, e.etag) for e in given
        ]
        assert [archive.read(e) for e in entries] == [recording.read(e) for e in given]


def replay(settings: Settings) -> Replay:
    assert settings.replay_dir is not None
    return Replay(settings, settings.replay_dir)


def test_all_that_is_due_comes_in_as_if_from_its_source(settings: Settings, recording: Archive) -> None:
    settings.now = at(10_000)
    replay(settings).run(threading.Event())
    same(settings, recording)
    entries = replayed(settings)
    assert {entry.url for entry in entries["settlement_report"]} == {"replay:https://example.org"}
    assert {entry.url for entry in entries["gamma"]} == {"replay:"}
    assert {entry.at for entry in entries["gamma"]} == {at(10_000)}
    state = State.read(Archive(settings.home / FOLDER).place("gamma"))
    assert (state.changed, state.problem) == (at(10_000), None)


def test_nothing_comes_in_before_its_time(settings: Settings) -> None:
    settings.now = at(95)
    stop = threading.Event()
    thread = threading.Thread(target=replay(settings).run, args=[stop])
    thread.start()
    try:
        until(lambda: sum(map(len, replayed(settings).values())) == 10)
        settings.now = at(100)
        until(lambda: sum(map(len, replayed(settings).values())) == 11)
    finally:
        stop.set()
        thread.join(20)
    assert sum(map(len, replayed(settings).values())) == 11


def test_it_goes_on_where_it_was_and_a_second_time_brings_nothing(settings: Settings, recording: Archive) -> None:
    for seconds in (200, 200, 10_000, 10_000):
        settings.now = at(seconds)
        stop = threading.Event()
        thread = threading.Thread(target=replay(settings).run, args=[stop])
        thread.start()
        until(lambda seconds=seconds: sum(map(len, replayed(settings).values())) >= min(21, seconds))
        stop.set()
        thread.join(20)
    settings.now = at(10_000)
    replay(settings).run(threading.Event())
    same(settings, recording)


def test_killed_between_an_entry_and_its_note_it_brings_the_entry_once(
    settings: Settings, recording: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.now = at(10_000)
    with monkeypatch.context() as patch:
        noted: list[int] = []

        def killed(one: Replay, entry: Entry) -> None:
            noted.append(entry.seq)
            if len(noted) == 25:
                raise KeyboardInterrupt
            note(one, entry)

        note = Replay._note
        patch.setattr(Replay, "_note", killed)
        with pytest.raises(KeyboardInterrupt):
            replay(settings).run(threading.Event())
    assert sum(map(len, replayed(settings).values())) == 25
    replay(settings).run(threading.Event())
    same(settings, recording)


def test_an_archive_that_had_entries_before_gets_the_recording_behind_them(
    settings: Settings, recording: Archive
) -> None:
    Archive(settings.home / FOLDER).append("gamma", b"before", name="gamma.json", at=START)
    settings.now = at(10_000)
    replay(settings).run(threading.Event())
    entries = replayed(settings)["gamma"]
    assert [e.sha256 for e in entries[1:]] == [e.sha256 for e in recording.after("gamma", 0)]


def test_while_the_disk_is_full_it_waits(
    settings: Settings, recording: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b3_pipeline.sources.replaying._RETRY_S", 0.01)
    append, failures = Archive.append, iter(range(3))

    def full(archive: Archive, *args: object, **given: object) -> Entry | None:
        if next(failures, None) is not None:
            raise ArchiveFull("No room to archive what gamma gave.")
        return append(archive, *args, **given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Archive, "append", full)
    settings.now = at(10_000)
    replay(settings).run(threading.Event())
    same(settings, recording)


def test_a_damaged_payload_of_the_recording_is_left_out_and_said(settings: Settings, recording: Archive) -> None:
    entry = recording.entry("gamma", 2)
    assert entry is not None
    recording.payload_path(entry).write_bytes(b"damaged")
    settings.now = at(10_000)
    told: list[str] = []
    Replay(settings, recording.folder, lambda _source, message: told.append(message)).run(threading.Event())
    assert any("gamma 2 (gamma.json) is damaged" in message for message in told)
    assert len(replayed(settings)["settlement_report"]) == 20


def test_sources_that_are_switched_off_stay_out_of_the_replay(settings: Settings) -> None:
    settings.sources_off, settings.now = ["gamma"], at(10_000)
    replay(settings).run(threading.Event())
    assert {source: len(entries) for source, entries in replayed(settings).items()} == {
        "gamma": 0, "settlement_report": 20, "ultimo_dado": 20
    }  # fmt: skip


def test_the_homes_clock_is_set_to_the_recordings_beginning_and_kept_on_the_way(settings: Settings) -> None:
    settings.replay_speed, real = 60, datetime.now(UTC)
    replay(settings).set_clock(lambda: real)
    assert START <= settings.clock() < at(600)
    set_clock(settings.home, Pace(at(300), real, 1e-6))
    replay(settings).set_clock()
    assert settings.clock() < at(301)
    other = Settings(home=settings.home.with_name("other"), replay_dir=settings.replay_dir, now=START)
    replay(other).set_clock()
    assert not (other.home / "clock.json").exists()


def test_a_folder_that_is_no_recording_and_the_own_archive_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NoRecording, match="holds no recording"):
        Replay(settings, tmp_path)
    Archive(settings.home / FOLDER).append("gamma", b"A", name="gamma.json", at=START)
    with pytest.raises(NoRecording, match="this very home"):
        Replay(settings, settings.home / FOLDER)


def test_a_replaying_collector_that_is_killed_again_and_again_brings_all_of_it_once(
    settings: Settings, recording: Archive
) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("B3_")}
    env |= {"B3_HOME": str(settings.home), "B3_REPLAY_DIR": str(recording.folder), "B3_REPLAY_SPEED": "1"}
    settings.home.mkdir()
    chance = random.Random(11)

    def count() -> int:
        return sum(map(len, replayed(settings).values()))

    for kill in range(1, KILLS + 1):
        # a tenth of the recording falls due, and it is killed somewhere in the middle of that
        set_clock(settings.home, Pace(at(100 * kill), datetime.now(UTC), 1e-6))
        target = chance.randrange(10 * (kill - 1) + 1, 10 * kill)
        with subprocess.Popen(
            [sys.executable, "-m", "b3_pipeline", "collect"], env=env, stderr=subprocess.DEVNULL
        ) as one:
            until(lambda target=target: count() >= target)
            time.sleep(chance.random() / 100)
            one.send_signal(signal.SIGKILL)
    settings.now = at(10_000)
    replay(settings).run(threading.Event())
    same(settings, recording)
