"""Each line that a bot puts into the inbox is archived once: however it is written, rotated or cut, and whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.errors import UsageError
from b3_pipeline.settings import Settings
from b3_pipeline.signals.hiding import HIDDEN
from b3_pipeline.sources import inbox as module
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.catalog import SOURCES, enabled
from b3_pipeline.sources.collecting import Outcome
from b3_pipeline.sources.collector import Collector, collect_once
from b3_pipeline.sources.inbox import SOURCE, Inbox, Mark, cut
from b3_pipeline.sources.probing import probe
from b3_pipeline.sources.state import State
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.signals.exports import SIGNAL, TOKEN
from b3_pipeline_tests.waiting import until

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
STEPS = 12  # more than an append has
LOOKING = """
import os, signal, sys
from datetime import datetime, timezone
from pathlib import Path
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.inbox import Inbox

folder, place, fatal = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done = 0

def step(_name):
    global done
    done += 1
    if done == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

looked = Inbox(folder, Archive(place, step), lambda: datetime.now(timezone.utc))
looked.look()
with (folder / "b.jsonl").open("a") as file:
    file.write('{"n": 100}\\n')
looked.look()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def inbox(folder: Path, archive: Archive) -> Inbox:
    return Inbox(folder, archive, lambda: NOW)


def line(number: int) -> bytes:
    return json.dumps({"n": number}).encode()


def append(path: Path, *contents: bytes) -> None:
    with path.open("ab") as file:
        for content in contents:
            file.write(content)


def kept(archive: Archive) -> list[tuple[str, bytes]]:
    """The entries' names and contents, in their order."""
    return [(entry.name, archive.read(entry)) for entry in archive.after(SOURCE, 0)]


def lines(archive: Archive) -> list[int]:
    return [json.loads(one)["n"] for _, content in kept(archive) for one in content.splitlines() if one.strip()]


def test_whole_lines_are_archived_as_they_come_and_say_where_they_stood(folder: Path, archive: Archive) -> None:
    looking = inbox(folder, archive)
    append(folder / "a.jsonl", line(1) + b"\n", line(2) + b"\n")
    assert looking.look() == 1
    assert looking.look() == 0
    append(folder / "a.jsonl", b"\n", line(3) + b"\r\n")
    assert looking.look() == 1
    assert kept(archive) == [("a.jsonl@1", b'{"n": 1}\n{"n": 2}\n'), ("a.jsonl@3", b'\n{"n": 3}\r\n')]
    newest = archive.newest(SOURCE)
    assert newest is not None
    assert (newest.at, newest.url, newest.content_type) == (NOW, "inbox:a.jsonl", "application/x-ndjson")


def test_a_half_written_line_waits_for_its_end(folder: Path, archive: Archive) -> None:
    looking = inbox(folder, archive)
    append(folder / "a.jsonl", line(1) + b"\n", b'{"n": ')
    looking.look()
    assert lines(archive) == [1]
    append(folder / "a.jsonl", b"2}\n")
    looking.look()
    assert lines(archive) == [1, 2]


def test_a_last_line_without_an_end_counts_once_it_is_an_object_and_not_again_with_its_end(
    folder: Path, archive: Archive
) -> None:
    looking = inbox(folder, archive)
    append(folder / "a.jsonl", line(1))
    looking.look()
    append(folder / "a.jsonl", b"\n")
    looking.look()
    append(folder / "a.jsonl", line(2) + b"\n")
    looking.look()
    assert lines(archive) == [1, 2]
    assert kept(archive)[-1][0] == "a.jsonl@2"


def test_a_file_that_was_rotated_is_read_on_and_the_new_one_from_its_beginning(folder: Path, archive: Archive) -> None:
    looking = inbox(folder, archive)
    append(folder / "a.jsonl", line(1) + b"\n")
    looking.look()
    append(folder / "a.jsonl", line(2) + b"\n")
    (folder / "a.jsonl").rename(folder / "a.jsonl.1")
    append(folder / "a.jsonl", line(3) + b"\n")
    looking.look()
    assert sorted(lines(archive)) == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", line(9) + b"\n", line(7) + b"\n" + line(8) + b"\n" + line(9) + b"\n"])
def test_a_file_that_was_cut_or_written_anew_is_read_from_its_beginning(
    folder: Path, archive: Archive, content: bytes
) -> None:
    looking = inbox(folder, archive)
    append(folder / "a.jsonl", line(1) + b"\n", line(2) + b"\n")
    looking.look()
    (folder / "a.jsonl").write_bytes(content)  # the same file: its number stays
    looking.look()
    append(folder / "a.jsonl", line(10) + b"\n")
    looking.look()
    assert lines(archive) == [1, 2, *(json.loads(one)["n"] for one in content.splitlines()), 10]


def test_other_files_and_folders_are_left_alone(folder: Path, archive: Archive) -> None:
    for name in (".a.jsonl", "a.json", "a.jsonl.tmp", "a.jsonl.gz"):
        append(folder / name, line(1) + b"\n")
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    append(folder / "a.jsonl-20251014", line(2) + b"\n")
    assert inbox(folder, archive).look() == 1
    assert lines(archive) == [2]


def test_a_line_that_is_too_long_is_kept_as_its_beginning_and_what_follows_goes_on(
    folder: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "SHOWN_OF_LONG_LINE", 5)
    append(folder / "a.jsonl", line(1) + b"\n", b"x" * 200)
    inbox(folder, archive).look()
    append(folder / "a.jsonl", b"y" * 100 + b"\n" + line(2) + b"\n")
    inbox(folder, archive).look()
    assert kept(archive) == [("a.jsonl@1", b'{"n": 1}\n'), ("a.jsonl@2", b"xxxxx"), ("a.jsonl@3", b'{"n": 2}\n')]


def test_a_token_at_the_end_of_what_is_kept_of_a_long_line_is_hidden(
    folder: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 256)
    monkeypatch.setattr(module, "SHOWN_OF_LONG_LINE", 40)
    append(folder / "a.jsonl", b"x" * 15 + TOKEN.encode() + b" " * 300)
    inbox(folder, archive).look()
    [(_, content)] = kept(archive)
    assert content == (b"x" * 15 + HIDDEN.encode() + b" " * 40)[:40]


def test_a_file_of_a_bad_name_is_passed_over_and_told_of(folder: Path, archive: Archive) -> None:
    append(Path(os.fsdecode(os.fsencode(folder) + b"/a\xff.jsonl")), line(1) + b"\n")
    append(folder / "b.jsonl", line(2) + b"\n")
    (folder / "c.jsonl").symlink_to("c.jsonl")
    attempt = inbox(folder, archive).collect()
    assert (attempt.outcome, lines(archive)) == (Outcome.FAILED, [2])
    assert "a\\udcff.jsonl" in str(attempt.problem)
    assert "c.jsonl" in str(attempt.problem)
    state = State.read(archive.place(SOURCE))
    assert state.problem == attempt.problem


def test_a_start_goes_on_where_the_last_one_ended_also_without_its_marks(folder: Path, archive: Archive) -> None:
    append(folder / "a.jsonl", line(1) + b"\n", line(2) + b"\n")
    inbox(folder, archive).look()
    append(folder / "a.jsonl", line(3) + b"\n")
    inbox(folder, archive).look()
    (archive.place(SOURCE) / "inbox.json").unlink()
    append(folder / "a.jsonl", line(4) + b"\n")
    inbox(folder, archive).look()
    assert lines(archive) == [1, 2, 3, 4]


def test_no_token_gets_into_the_archive(folder: Path, archive: Archive) -> None:
    written = json.dumps({**SIGNAL, "rawMessage": f"fale com {TOKEN}", "botToken": "anything"})
    broken = f'{{"rawMessage": "{TOKEN}", "senha": "abc'
    escaped = '{"rawMessage": "' + "".join(f"\\u{ord(c):04x}" for c in TOKEN)
    append(folder / "a.jsonl", *(one.encode() + b"\n" for one in (written, broken, escaped)))
    inbox(folder, archive).look()
    [(_, content)] = kept(archive)
    first, second, third = content.decode().splitlines()
    assert json.loads(first) == {**SIGNAL, "rawMessage": f"fale com {HIDDEN}", "botToken": HIDDEN}
    assert (second, third) == (f'{{"rawMessage": "{HIDDEN}", "{HIDDEN}', f'{{"rawMessage": "{HIDDEN}')
    assert TOKEN not in content.decode()


@given(
    st.lists(st.tuples(st.sampled_from([b"\n", b"\r\n", b"\n\n"]), st.integers(0, 10**12)), max_size=12),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
def test_wherever_a_file_is_cut_while_it_grows_each_line_is_taken_once(
    written: list[tuple[bytes, int]], steps: list[int]
) -> None:
    content = b"".join(line(number) + end for end, number in written)
    mark, taken, grown = Mark(), b"", 0
    while mark.offset < len(content):
        grown = min(len(content), grown + steps[grown % len(steps)])
        before = mark
        found, mark = cut(content[mark.offset : grown], mark)
        assert mark.lines == content.count(b"\n", 0, mark.offset)
        assert mark.offset >= before.offset
        taken += found
    assert taken == content


@pytest.mark.parametrize("fatal", some(range(1, 2 * STEPS), few=4))
def test_killed_at_any_step_each_line_is_in_the_archive_once(folder: Path, archive: Archive, fatal: int) -> None:
    append(folder / "a.jsonl", line(1) + b"\n", line(2) + b"\n")
    append(folder / "b.jsonl", line(3) + b"\n")
    run = subprocess.run(
        [sys.executable, "-c", LOOKING, folder, archive.folder, str(fatal)], capture_output=True, check=False
    )
    assert run.returncode in (0, -signal.SIGKILL), run.stderr
    append(folder / "a.jsonl", line(4) + b"\n")
    inbox(folder, archive).look()
    given = [json.loads(one)["n"] for file in sorted(folder.iterdir()) for one in file.read_bytes().splitlines()]
    assert sorted(lines(archive)) == sorted(given)


def test_killed_after_an_entry_and_before_its_mark_it_is_not_archived_again(folder: Path, archive: Archive) -> None:
    append(folder / "a.jsonl", line(1) + b"\n")
    environment = {**os.environ, "B3_DIE_AT": "inbox: entry appended"}
    run = subprocess.run(
        [sys.executable, "-c", LOOKING, folder, archive.folder, "0"], env=environment, capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGKILL
    assert inbox(folder, archive).look() == 0
    assert lines(archive) == [1]


def test_what_goes_wrong_is_told_and_over_once_it_is_right_again(tmp_path: Path, archive: Archive) -> None:
    folder, told = tmp_path / "inbox", []
    looking = Inbox(folder, archive, lambda: NOW, lambda _source, message: told.append(message))
    assert looking.collect().outcome == Outcome.FAILED
    problem = State.read(archive.place(SOURCE)).problem
    assert problem is not None
    assert "B3_SIGNALS_INBOX" in problem
    folder.mkdir()
    assert looking.collect().outcome == Outcome.UNCHANGED
    assert State.read(archive.place(SOURCE)).problem is None
    append(folder / "a.jsonl", line(1) + b"\n")
    attempt = looking.collect()
    assert (attempt.outcome, attempt.entry and attempt.entry.seq) == (Outcome.NEW, 1)
    assert told == [f"failed: {problem}", "new #1 a.jsonl@1 9 bytes"]


def test_the_collector_collects_it_where_there_is_one(tmp_path: Path, folder: Path) -> None:
    settings = Settings(home=tmp_path / "home", signals_inbox=folder, sources_off=[], now=NOW)
    assert SOURCE in enabled(settings)
    assert SOURCE not in enabled(Settings(home=tmp_path / "home"))
    append(folder / "a.jsonl", line(1) + b"\n")
    assert collect_once(settings, SOURCE).outcome == Outcome.NEW
    told: list[str] = []
    collector = Collector(
        settings, {SOURCE: SOURCES[SOURCE]}, lambda source, message: told.append(f"{source} {message}")
    )
    thread = threading.Thread(target=collector.run)
    thread.start()
    try:
        append(folder / "a.jsonl", line(2) + b"\n")
        until(lambda: any("new #2" in one for one in told))
    finally:
        collector.stop()
        thread.join(20)
    assert f"collector collects {SOURCE}" in told
    assert lines(Archive(settings.home / "archive")) == [1, 2]


def test_the_doctor_looks_whether_it_is_there(tmp_path: Path, folder: Path) -> None:
    assert probe(SOURCES[SOURCE], Settings(home=tmp_path, signals_inbox=folder)).ok
    missing = probe(SOURCES[SOURCE], Settings(home=tmp_path, signals_inbox=tmp_path / "nowhere"))
    assert not missing.ok
    assert "B3_SIGNALS_INBOX" in missing.advice
    with pytest.raises(UsageError, match="not configured"):
        collect_once(Settings(home=tmp_path), SOURCE)
