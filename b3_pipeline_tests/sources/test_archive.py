"""What is acknowledged is kept, in an unbroken sequence, whatever happens to the process that appends."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from b3_pipeline.sources import archive as module
from b3_pipeline.sources.archive import Archive, ArchiveDamaged, ArchiveFailed, ArchiveFull, Entry
from b3_pipeline_tests.faults import FAULTS

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
#: How often a process is killed in the middle of an append: `make faults` wants more.
KILLS = FAULTS or 24
STEPS = 10  # of an append that brings new bytes
APPENDING = """
import hashlib, os, random, signal, sys
from datetime import datetime, timezone
from pathlib import Path
from b3_pipeline.sources.archive import Archive

folder, seed, fatal = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance, done = random.Random(seed), 0

def step(_name):
    global done
    done += 1
    if done == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

archive = Archive(folder, step)
for turn in range(1000):
    name = chance.choice(["gamma.json", "other.json"])
    content = chance.choice([b"same", chance.randbytes(chance.randrange(3_000))])
    entry = archive.append("gamma", content, name=name, at=datetime.now(timezone.utc))
    seq = entry.seq if entry else archive.last("gamma")
    print(seq, name, hashlib.sha256(content).hexdigest(), bool(entry), flush=True)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def append(archive: Archive, content: bytes, name: str = "gamma.json", source: str = "gamma") -> Entry | None:
    return archive.append(source, content, name=name, at=NOW)


def whole(archive: Archive, source: str) -> list[bytes]:
    """All contents of a source, after a look that the sequence has no gap."""
    entries = list(archive.after(source, 0))
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    return [archive.read(entry) for entry in entries]


def test_what_was_appended_is_read_back_with_all_that_is_known_of_it(archive: Archive) -> None:
    facts = {"url": "https://example.org/SPRD251014.zip", "status": 200, "session": date(2025, 10, 14)}
    facts |= {"etag": '"a"', "last_modified": "Tue, 14 Oct 2025 22:25:00 GMT", "content_type": "application/zip"}
    entry = archive.append("settlement_report", b"zip", name="SPRD251014.zip", at=NOW, **facts)  # pyright: ignore[reportArgumentType]
    assert entry is not None
    assert (entry.seq, entry.size, entry.at, entry.session) == (1, 3, NOW, date(2025, 10, 14))
    other = Archive(archive.folder)
    assert list(other.after("settlement_report", 0)) == [entry]
    assert other.newest("settlement_report") == entry
    assert other.read(entry) == b"zip"
    assert other.sources() == ["settlement_report"]
    document = json.loads((archive.folder / "settlement_report/entries/000000/000000001.json").read_text("utf-8"))
    assert document["session"] == "2025-10-14"
    assert document["at"] == "2025-10-14T15:00:00+00:00"


def test_the_same_again_is_no_entry_and_back_to_an_older_state_is_one_on_the_same_file(archive: Archive) -> None:
    entries = [append(archive, content) for content in (b"A", b"A", b"B", b"A")]
    assert [entry and entry.seq for entry in entries] == [1, None, 2, 3]
    assert len(list((archive.folder / "gamma/payloads").glob("*/*.gz"))) == 2
    assert append(Archive(archive.folder), b"A") is None  # a new process knows as much
    assert append(archive, b"A", "other.json") is not None  # the same bytes under another name
    assert whole(archive, "gamma") == [b"A", b"B", b"A", b"A"]


def test_a_payload_is_packed_the_same_whenever_that_is(archive: Archive) -> None:
    append(archive, b"x" * 1000)
    [path] = (archive.folder / "gamma/payloads").glob("*/*.gz")
    assert path.stem == hashlib.sha256(b"x" * 1000).hexdigest()
    assert path.read_bytes()[4:8] == bytes(4)  # no time in it
    assert gzip.decompress(path.read_bytes()) == b"x" * 1000


def test_a_stream_is_archived_like_bytes_and_read_like_one(archive: Archive) -> None:
    content = random.Random(1).randbytes(3_000_000)
    entry = archive.append("ajustes_b3", io.BytesIO(content), name="ajustes_b3.csv", at=NOW)
    assert entry is not None
    with archive.open(entry) as stream:
        assert stream.read(5) == content[:5]
        assert stream.read() == content[5:]
    assert archive.append("ajustes_b3", io.BytesIO(content), name="ajustes_b3.csv", at=NOW) is None
    assert not list((archive.folder / "ajustes_b3/drafts").iterdir())


def test_nothing_new_is_found_out_without_reading_anything(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(archive.after("gamma", 0)) == []
    assert (archive.first("gamma"), archive.last("gamma"), archive.newest("gamma")) == (1, 0, None)
    append(archive, b"A")
    monkeypatch.setattr(module, "_listed", lambda _folder: pytest.fail("a folder was listed"))
    assert list(archive.after("gamma", 1)) == []


def test_more_than_a_folder_of_entries_is_one_sequence_and_a_new_process_reads_few(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PER_FOLDER", 10)
    monkeypatch.setattr(module, "_INDEX_EVERY", 10)
    monkeypatch.setattr(module.os, "fsync", lambda _descriptor: None)
    for number in range(35):
        append(archive, b"%d" % number, f"{number % 3}.json")
    assert whole(archive, "gamma") == [b"%d" % number for number in range(35)]
    reads: list[int] = []
    entry = module._Place.entry
    monkeypatch.setattr(module._Place, "entry", lambda place, seq: reads.append(seq) or entry(place, seq))
    other = Archive(archive.folder)
    assert append(other, b"34", "1.json") is None
    assert min(reads) > 30


def test_of_names_that_are_met_once_the_oldest_are_forgotten(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NAMES_KEPT", 2)
    for name in ("stays", "once", "stays", "again"):
        append(archive, name.encode() + b"%d" % archive.last("gamma"), name)
    assert list(archive._names["gamma"].newest) == ["stays", "again"]
    assert append(archive, b"stays2", "stays") is None
    assert append(archive, b"once1", "once") is not None


def test_a_writer_waits_for_another_as_long_as_it_is_ready_to(archive: Archive) -> None:
    with archive.locked("gamma"), pytest.raises(module.ArchiveFailed):
        append(Archive(archive.folder, patience_s=0.01), b"A")


@pytest.mark.parametrize("damage", ["cut", "other bytes", "no gzip", "gone", "longer"])
def test_a_damaged_payload_is_never_read_as_if_it_were_whole(archive: Archive, damage: str) -> None:
    entry = append(archive, b"A" * 1000)
    assert entry is not None
    [path] = (archive.folder / "gamma/payloads").glob("*/*.gz")
    packed = path.read_bytes()
    changed = {"cut": packed[:-6], "other bytes": gzip.compress(b"B" * 1000), "no gzip": b"<html>"}
    changed |= {"longer": gzip.compress(b"A" * 1001)}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(ArchiveDamaged, match=r"gamma 1 \(gamma.json\) is damaged"):
        archive.read(entry)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"source": "gamma"}', b""])
def test_a_damaged_entry_is_said_and_what_comes_in_is_archived_all_the_same(archive: Archive, content: bytes) -> None:
    for number in range(3):
        append(archive, b"%d" % number)
    (archive.folder / "gamma/entries/000000/000000002.json").write_bytes(content)
    with pytest.raises(ArchiveDamaged, match=r"000000002\.json"):
        list(archive.after("gamma", 0))
    entry = append(Archive(archive.folder), b"3")
    assert entry is not None
    assert entry.seq == 4


def test_an_entry_that_the_disk_does_not_give_is_a_damaged_one(archive: Archive) -> None:
    append(archive, b"A")
    file = archive.folder / "gamma/entries/000000/000000001.json"
    file.unlink()
    file.mkdir()  # reading it is an error of the system's
    with pytest.raises(ArchiveDamaged, match="Is a directory"):
        archive.entry("gamma", 1)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "gamma.json"])
def test_what_is_no_name_of_a_source_reaches_no_file(archive: Archive, name: str) -> None:
    with pytest.raises(ValueError, match="no source's name"):
        append(archive, b"A", source=name)
    assert not archive.folder.exists()


class _Full:
    """Lets an append run into a full disk at its n-th step, as writing would."""

    def __init__(self, fatal: int, number: int = errno.ENOSPC) -> None:
        self.left, self.number = fatal, number

    def __call__(self, _done: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_full_disk_is_said_acknowledges_nothing_and_does_no_harm_afterwards(tmp_path: Path, step: int) -> None:
    append(Archive(tmp_path), b"before")
    with pytest.raises(ArchiveFull, match="No room"):
        append(Archive(tmp_path, _Full(step)), b"new")
    archive = Archive(tmp_path)
    again = append(archive, b"new")  # it is there already where the append had come that far
    assert again is None or again.seq == 2
    assert whole(archive, "gamma") == [b"before", b"new"]
    assert len(list((tmp_path / "gamma/payloads").glob("*/*.gz"))) == 2
    assert not list((tmp_path / "gamma/drafts").iterdir())


def test_an_entry_that_a_reader_may_have_seen_comes_back_when_power_fails_before_its_folder_was_safe(
    tmp_path: Path,
) -> None:
    append(Archive(tmp_path), b"before")
    with pytest.raises(ArchiveFull):
        append(Archive(tmp_path, _Full(8)), b"seen")
    path = tmp_path / "gamma/entries/000000/000000002.json"
    seen = Archive(tmp_path).entry("gamma", 2)
    path.unlink()  # as the disk may have it after the power has failed
    append(Archive(tmp_path), b"after")
    assert whole(Archive(tmp_path), "gamma") == [b"before", b"seen", b"after"]
    assert Archive(tmp_path).entry("gamma", 2) == seen


def test_a_disk_that_fails_is_said_too(tmp_path: Path) -> None:
    with pytest.raises(ArchiveFailed, match="Input/output error"):
        append(Archive(tmp_path, _Full(1, errno.EIO)), b"new")


@pytest.mark.parametrize("fatal", sorted(random.Random(5).sample(range(1, 4 * KILLS), KILLS)))
def test_killed_at_any_step_every_acknowledged_entry_is_there_and_no_number_is_missing(
    tmp_path: Path, fatal: int
) -> None:
    command = [sys.executable, "-c", APPENDING, str(tmp_path), str(fatal), str(fatal)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    acknowledged = [line.split() for line in run.stdout.splitlines()]
    reader = Archive(tmp_path)  # a reader that comes before anybody repairs
    contents = whole(reader, "gamma")
    before = list(reader.after("gamma", 0))
    for seq, name, sha256, new in acknowledged:
        entry = reader.entry("gamma", int(seq))
        assert entry is not None
        assert new == "False" or (entry.name, entry.sha256) == (name, sha256)
    created = sum(new == "True" for *_, new in acknowledged)
    assert len(contents) in (created, created + 1)  # the last one may be there without a word

    archive = Archive(tmp_path)
    last = append(archive, b"after")
    assert last is not None
    assert whole(archive, "gamma")[-1] == b"after"
    assert last.seq in (len(contents) + 1, len(contents) + 2)  # what had its draft was finished
    assert list(archive.after("gamma", 0))[: len(before)] == before  # what a reader saw stays as it was
    used = {entry.sha256 for entry in archive.after("gamma", 0)}
    assert {path.stem for path in (tmp_path / "gamma/payloads").glob("*/*.gz")} == used
    assert not list((tmp_path / "gamma/drafts").iterdir())


def test_writers_at_once_take_turns_and_readers_meanwhile_see_whole_entries_in_order(tmp_path: Path) -> None:
    code = APPENDING.replace("range(1000)", "range(30)")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(seed), "0"], env=env, stdout=subprocess.PIPE)
        for seed in (1, 2, 3)
    ]
    archive, seen = Archive(tmp_path), 0
    while any(writer.poll() is None for writer in writers):
        for entry in archive.after("gamma", seen):
            assert entry.seq == seen + 1
            assert hashlib.sha256(archive.read(entry)).hexdigest() == entry.sha256
            seen = entry.seq
    lines = [line.split() for writer in writers for line in writer.communicate()[0].decode().splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(lines) == 90
    new = sorted(int(seq) for seq, *_, new in lines if new == "True")
    assert new == list(range(1, len(whole(archive, "gamma")) + 1))


class ArchiveMachine(RuleBasedStateMachine):
    """An archive against a list: appends, crashes at any step, new processes."""

    make: Callable[[], Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.make()
        self.archive = Archive(self.folder)
        self.model: list[tuple[str, bytes]] = []

    @rule(name=st.sampled_from("ab"), content=st.binary(max_size=2))
    def appends(self, name: str, content: bytes) -> None:
        entry = append(self.archive, content, name)
        newest = next((held for of, held in reversed(self.model) if of == name), None)
        assert (entry is None) == (newest == content)
        if entry is not None:
            self.model.append((name, content))
            assert entry.seq == len(self.model)

    @rule(
        name=st.sampled_from("ab"), content=st.binary(max_size=2), step=st.integers(1, STEPS), again=st.integers(0, 2)
    )
    def crashes(self, name: str, content: bytes, step: int, again: int) -> None:
        before = len(self.model)
        newest = next((held for of, held in reversed(self.model) if of == name), None)
        try:
            append(Archive(self.folder, _Full(step)), content, name)
        except ArchiveFull:
            with suppress(ArchiveFull):
                Archive(self.folder, _Full(again)).recover("gamma")
            Archive(self.folder).recover("gamma")
        if newest != content and Archive(self.folder).last("gamma") > before:
            self.model.append((name, content))

    @rule()
    def starts_again(self) -> None:
        self.archive = Archive(self.folder)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert whole(self.archive, "gamma") == [content for _, content in self.model]
        assert [entry.name for entry in self.archive.after("gamma", 0)] == [name for name, _ in self.model]


def test_an_archive_is_a_list_whatever_crashes(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(module.os, "fsync", lambda _descriptor: None)  # nothing here is about power
    machine = type("Machine", (ArchiveMachine,), {"make": staticmethod(lambda: tmp_path_factory.mktemp("archive"))})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=15, deadline=None))


@given(st.lists(st.binary(max_size=3), max_size=8))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_states_of_a_file_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, contents: list[bytes]
) -> None:
    monkeypatch.setattr(module.os, "fsync", lambda _descriptor: None)
    archive = Archive(tmp_path_factory.mktemp("archive"))
    for content in contents:
        append(archive, content)
    changes = [content for before, content in zip([None, *contents], contents, strict=False) if content != before]
    assert whole(archive, "gamma") == changes


def test_the_last_refused_answers_are_kept_with_their_reasons_and_the_same_once(archive: Archive) -> None:
    for number in range(25):
        for again in range(2):
            at = NOW + timedelta(minutes=number, seconds=again)
            archive.keep_refused("gamma", b"<html>%d" % number, at, "it is HTML")
    kept = sorted((archive.folder / "gamma/refused").glob("*.bin"))
    assert [path.read_bytes() for path in kept] == [b"<html>%d" % number for number in range(5, 25)]
    reasons = sorted((archive.folder / "gamma/refused").glob("*.json"))
    assert json.loads(reasons[-1].read_text("utf-8"))["problem"] == "it is HTML"
    assert archive.sources() == []
