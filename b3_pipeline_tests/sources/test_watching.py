"""Each state that a file of the legacy folder has is archived, whoever writes it and however; the folder stays as it is."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.api import BaseObserver

from b3_pipeline.parsing.kinds import CAPTURE, GAMMA
from b3_pipeline.sources import archive as archive_module
from b3_pipeline.sources import watching
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.state import State
from b3_pipeline.sources.watching import Watcher
from b3_pipeline_tests.waiting import until

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
NEVER_S = 3_600.0


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    folder = tmp_path / "legacy"
    (folder / "historico").mkdir(parents=True)
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def watching_folder(legacy: Path, archive: Archive, told: list[str]) -> Callable[..., Any]:
    """Watches the folder for the length of a block, from when everything in it was looked at once."""

    @contextmanager
    def start(**options: Any) -> Iterator[Watcher]:
        def tell(source: str, message: str) -> None:
            told.append(f"{source}: {message}")

        watcher = Watcher(legacy, (CAPTURE, GAMMA), archive, lambda: NOW, tell, **options)
        looked, look = threading.Event(), watcher.look

        def first_look() -> None:
            look()
            looked.set()

        watcher.look = first_look
        stop = threading.Event()
        thread = threading.Thread(target=watcher.run, args=[stop])
        thread.start()
        try:
            assert looked.wait(20)
            yield watcher
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()

    return start


def document(number: int) -> bytes:
    return json.dumps({"gammalevels": {"timestamp": number, "text": "é"}}, ensure_ascii=False).encode()


def contents(archive: Archive, source: str = "gamma") -> list[bytes]:
    return [archive.read(entry) for entry in archive.after(source, 0)]


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def by_rename(path: Path, content: bytes) -> None:
    draft = path.with_name("draft.tmp")
    draft.write_bytes(content)
    draft.replace(path)


def by_rename_after_rotation(path: Path, content: bytes) -> None:
    if path.exists():
        path.rename(path.parent / "historico" / f"old-{os.urandom(4).hex()}")
    by_rename(path, content)


@pytest.mark.parametrize("write", [in_place, by_rename, by_rename_after_rotation])
def test_events_alone_bring_each_state_as_soon_as_it_is_there(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any], write: Callable[[Path, bytes], None]
) -> None:
    with watching_folder(look_every_s=NEVER_S):
        for number in range(10):
            write(legacy / "gamma.json", document(number))
            until(lambda number=number: archive.last("gamma") == number + 1, 20)
    assert contents(archive) == [document(number) for number in range(10)]
    newest = archive.newest("gamma")
    assert newest is not None
    assert (newest.name, newest.at, newest.url) == ("gamma.json", NOW, None)


def test_a_state_that_came_before_and_comes_back_is_a_state(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any]
) -> None:
    with watching_folder():
        for place, number in enumerate((1, 2, 1)):
            in_place(legacy / "gamma.json", document(number))
            until(lambda place=place: archive.last("gamma") == place + 1, 20)
        os.utime(legacy / "gamma.json")  # touched is not changed
    assert contents(archive) == [document(number) for number in (1, 2, 1)]


def test_what_is_there_at_the_start_is_archived_once(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any]
) -> None:
    in_place(legacy / "gamma.json", document(1))
    in_place(legacy / "ultimo_dado.json", b"{}")
    for _ in range(2):
        with watching_folder():
            until(lambda: archive.last("gamma") and archive.last("ultimo_dado"), 20)
    assert contents(archive) == [document(1)]
    assert contents(archive, "ultimo_dado") == [b"{}"]


def test_without_events_the_folder_is_looked_at(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any]
) -> None:
    with watching_folder(events=False):
        for number in range(3):
            in_place(legacy / "gamma.json", document(number))
            until(lambda number=number: archive.last("gamma") == number + 1, 20)


def test_when_no_more_watches_are_allowed_the_folder_is_looked_at(
    legacy: Path,
    archive: Archive,
    watching_folder: Callable[..., Any],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_observer: BaseObserver) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(BaseObserver, "start", refuse)
    with watching_folder(look_every_s=NEVER_S):
        in_place(legacy / "gamma.json", document(1))
        until(lambda: archive.last("gamma"), 20)
    assert any("inotify watch limit reached" in line for line in told)


def test_a_folder_that_gives_no_events_is_found_out(
    legacy: Path,
    archive: Archive,
    watching_folder: Callable[..., Any],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Watcher, "heard", lambda _watcher, _path: None)
    in_place(legacy / "gamma.json", document(0))
    with watching_folder(look_every_s=0.05):
        in_place(legacy / "gamma.json", document(1))
        os.utime(legacy / "gamma.json", (1, 1))  # long ago: an event would have told by now
        until(lambda: any("gives no events" in line for line in told), 20)
        for number in range(2, 5):
            in_place(legacy / "gamma.json", document(number))
            until(lambda number=number: contents(archive)[-1] == document(number), 20)


def test_a_half_written_document_waits_for_its_other_half(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any]
) -> None:
    path, content = legacy / "gamma.json", document(1)
    with watching_folder(patience_s=NEVER_S) as watcher:
        for size in (0, 5, len(content) - 1):
            in_place(path, content[:size])  # closed each time, as by a writer that appends
            until(
                lambda size=size: (
                    len(watcher._pending.get("gamma.json", [watching.Reading(GAMMA, "", b"?", NOW)])[0].content) == size
                )
            )
        in_place(path, content)
        until(lambda: archive.last("gamma"), 20)
        assert not watcher._pending
    assert contents(archive) == [content]


@pytest.mark.parametrize("events", [True, False])
def test_a_document_that_stays_half_is_archived_as_it_is(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any], events: bool
) -> None:
    with watching_folder(patience_s=0.3, events=events):
        in_place(legacy / "gamma.json", b'{"gammalevels": {"VIX"')
        until(lambda: archive.last("gamma"), 20)
        in_place(legacy / "gamma.json", document(2))
        until(lambda: archive.last("gamma") == 2, 20)
    assert contents(archive) == [b'{"gammalevels": {"VIX"', document(2)]


def test_a_writer_that_keeps_its_file_open_is_read_when_it_is_whole(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any]
) -> None:
    with watching_folder(look_every_s=0.05, patience_s=NEVER_S), (legacy / "gamma.json").open("wb") as file:
        content = document(1)
        for part in (content[:7], content[7:]):
            file.write(part)
            file.flush()
        until(lambda: archive.last("gamma"), 20)
    assert contents(archive) == [content]


@pytest.mark.parametrize("text", ["[1]", "\ufeff{}", '{"a": "ação"}'])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_documents_of_all_encodings_that_are_met_are_whole(text: str, encoding: str) -> None:
    content = text.encode(encoding) if encoding == "utf-8" or text[0] != "\ufeff" else text.encode()
    assert watching._whole(content)
    assert not watching._whole(content[:-1])
    assert not watching._whole(b"[" * 100_000)


def test_a_folder_that_goes_and_comes_back_is_watched_again(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any], told: list[str]
) -> None:
    in_place(legacy / "gamma.json", document(1))
    with watching_folder(look_every_s=0.1) as watcher:
        until(lambda: archive.last("gamma"), 20)
        legacy.rename(legacy.with_name("away"))
        until(lambda: State.read(archive.place("gamma")).problem == "the legacy folder is not there", 20)
        legacy.mkdir()
        in_place(legacy / "gamma.json", document(2))
        until(lambda: archive.last("gamma") == 2, 20)
        until(lambda: watcher._observer is not None, 20)
        in_place(legacy.with_name("away") / "gamma.json", document(9))  # no longer ours
        in_place(legacy / "gamma.json", document(3))
        until(lambda: archive.last("gamma") == 3, 20)
    assert contents(archive) == [document(number) for number in (1, 2, 3)]
    assert State.read(archive.place("gamma")).problem is None


def test_a_deleted_file_is_no_entry_but_said(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any], told: list[str]
) -> None:
    in_place(legacy / "gamma.json", document(1))
    with watching_folder(look_every_s=0.1):
        until(lambda: archive.last("gamma"), 20)
        (legacy / "gamma.json").unlink()
        until(lambda: State.read(archive.place("gamma")).problem, 20)
        state = State.read(archive.place("gamma"))
        assert (state.problem, state.failures) == ("gamma.json is not in the legacy folder", 1)
        in_place(legacy / "gamma.json", document(2))
        until(lambda: State.read(archive.place("gamma")).problem is None, 20)
    assert archive.last("gamma") == 2
    assert "gamma: failed: gamma.json is not in the legacy folder" in told


def test_a_capture_that_was_rotated_unseen_is_archived_under_its_own_name(
    legacy: Path, archive: Archive, watching_folder: Callable[..., Any]
) -> None:
    capture, history = legacy / "ultimo_dado.json", legacy / "historico"
    in_place(history / "ultimo_dado_20251013_090000.json", b"{}")  # the migration's
    in_place(history / "notes.json", b"{}")
    with watching_folder():
        in_place(capture, b'{"a": 1}')
        until(lambda: archive.last("ultimo_dado") == 1, 20)
        capture.rename(history / "ultimo_dado_20251014_090000.json")  # is there already
        in_place(history / "ultimo_dado_20251014_091500.json", b'{"a": 2}')
        until(lambda: archive.last("ultimo_dado") == 2, 20)
    in_place(history / "ultimo_dado_20251014_093000.json", b'{"a": 3}')  # while nobody was there
    with watching_folder():
        until(lambda: archive.last("ultimo_dado") == 3, 20)
    found = [(entry.name, archive.read(entry)) for entry in archive.after("ultimo_dado", 0)]
    assert found == [
        ("ultimo_dado.json", b'{"a": 1}'),
        ("historico/ultimo_dado_20251014_091500.json", b'{"a": 2}'),
        ("historico/ultimo_dado_20251014_093000.json", b'{"a": 3}'),
    ]


def test_while_the_disk_is_full_states_wait_and_then_come_in_order(
    legacy: Path,
    archive: Archive,
    watching_folder: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = threading.Event()
    full.set()
    written = archive_module._Place.write_part

    def write(place: Any, stream: Any) -> Any:
        if full.is_set():
            raise OSError(28, "No space left on device")
        return written(place, stream)

    monkeypatch.setattr(archive_module._Place, "write_part", write)
    monkeypatch.setattr(watching, "_RETRY_S", 0.05)
    with watching_folder() as watcher:
        for number in range(4):
            in_place(legacy / "gamma.json", document(number))
            until(lambda number=number: len(watcher._backlog) == number + 1, 20)
        assert "No room" in str(State.read(archive.place("gamma")).problem)
        full.clear()
        until(lambda: archive.last("gamma") == 4, 20)
    assert contents(archive) == [document(number) for number in range(4)]
    assert State.read(archive.place("gamma")).problem is None


def test_the_folder_is_never_written_to(legacy: Path, archive: Archive, watching_folder: Callable[..., Any]) -> None:
    in_place(legacy / "gamma.json", document(1))
    before = {path: path.stat().st_mtime_ns for path in (legacy, *legacy.rglob("*"))}
    with watching_folder(look_every_s=0.05):
        until(lambda: archive.last("gamma"), 20)
    assert {path: path.stat().st_mtime_ns for path in (legacy, *legacy.rglob("*"))} == before
