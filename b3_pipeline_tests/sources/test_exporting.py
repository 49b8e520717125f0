"""Only what lies elsewhere, proven, is pruned; and an export is as good as the archive."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b3_pipeline.errors import UsageError
from b3_pipeline.sources import archive as module
from b3_pipeline.sources.archive import Archive, ArchiveDamaged
from b3_pipeline.sources.exporting import ExportFailed, export, exported, prune, verify

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
ALWAYS = date(9999, 1, 1)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power."""
    monkeypatch.setattr(module.os, "fsync", lambda _descriptor: None)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Entries 1–4 of September, 5–8 of October, 9–10 of November; every content comes back once."""
    return filled(tmp_path / "archive")


def filled(folder: Path) -> Archive:
    archive = Archive(folder)
    for number, month in enumerate((9, 9, 9, 9, 10, 10, 10, 10, 11, 11), 1):
        content = b"state %d" % (number % 5)
        archive.append("gamma", content, name="gamma.json", at=datetime(2025, month, 1, 12, number, tzinfo=UTC))
    return archive


def contents(archive: Archive, after: int = 0) -> list[bytes]:
    return [archive.read(entry) for entry in archive.after("gamma", after)]


def everything(_source: str) -> int:
    return 1_000


def test_closed_months_are_exported_once_and_the_export_is_an_archive(archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    done = export(archive, folder, NOW)
    assert [(s.month, s.first, s.last) for s in done] == [("2025-09", 1, 4), ("2025-10", 5, 8)]
    assert export(archive, folder, NOW) == []
    assert contents(Archive(folder)) == contents(archive)[:8]
    manifest = json.loads((folder / "gamma" / done[0].manifest).read_text("utf-8"))
    assert (manifest["entries"], manifest["first"], manifest["last"]) == (4, 1, 4)
    assert len(manifest["files"]) == 8
    later = export(archive, tmp_path / "other disk", datetime(2025, 12, 1, tzinfo=UTC))
    assert [(s.month, s.first, s.last) for s in later] == [("2025-11", 9, 10)]
    assert [s.last for s in exported(archive, "gamma")] == [4, 8, 10]


def test_what_is_exported_old_and_loaded_is_pruned_and_the_sequence_goes_on(archive: Archive, tmp_path: Path) -> None:
    before = contents(archive)
    export(archive, tmp_path / "export", NOW)
    pruned = prune(archive, "gamma", date(2025, 10, 1), everything)
    assert (pruned.first, pruned.last, pruned.entries, pruned.kept_for) == (1, 4, 4, "it came on 2025-10-01")
    assert (archive.first("gamma"), archive.last("gamma")) == (5, 10)
    assert contents(archive) == contents(archive, 2) == contents(Archive(archive.folder)) == before[4:]
    entry = archive.append("gamma", b"new", name="gamma.json", at=NOW)
    assert entry is not None
    assert entry.seq == 11
    assert list(verify(archive, "gamma")) == []
    assert [e.seq for e in archive.after("gamma", 7)] == [8, 9, 10, 11]


def test_the_newest_entry_stays_whatever_is_asked(archive: Archive, tmp_path: Path) -> None:
    export(archive, tmp_path / "export", datetime(2026, 1, 1, tzinfo=UTC))
    pruned = prune(archive, "gamma", ALWAYS, everything)
    assert (pruned.last, pruned.kept_for) == (9, "it is the newest")
    assert archive.last("gamma") == 10
    assert len(list((archive.folder / "gamma/payloads").glob("*/*.gz"))) == 1
    assert archive.append("gamma", b"state 0", name="gamma.json", at=NOW) is None


@pytest.mark.parametrize(
    ("before", "loaded", "last", "why"),
    [
        (ALWAYS, 1_000, 8, "it is in no export"),
        (ALWAYS, 3, 3, "it is not loaded yet"),
        (ALWAYS, 0, 0, "it is not loaded yet"),
        (date(2025, 9, 1), 1_000, 0, "it came on 2025-09-01"),
    ],
)
def test_what_is_needed_stays(archive: Archive, tmp_path: Path, before: date, loaded: int, last: int, why: str) -> None:
    export(archive, tmp_path / "export", NOW)
    pruned = prune(archive, "gamma", before, lambda _source: loaded)
    assert (pruned.last, pruned.kept_for) == (last, why)
    assert archive.first("gamma") == last + 1


def remove(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage", [remove, change])
@pytest.mark.parametrize("pattern", ["manifest-*.json", "entries/*/*3.json", "payloads/*/*.gz"])
def test_an_export_that_is_no_longer_what_it_was_prunes_nothing(
    archive: Archive, tmp_path: Path, pattern: str, damage: Callable[[Path], None]
) -> None:
    before = contents(archive)
    export(archive, tmp_path / "export", NOW)
    for path in (tmp_path / "export/gamma").glob(pattern):
        damage(path)
    with pytest.raises(ExportFailed, match="The export of gamma 2025-"):
        prune(archive, "gamma", ALWAYS, everything)
    assert contents(archive) == before


def test_a_crash_while_pruning_leaves_no_gap_and_the_next_one_finishes(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(archive, tmp_path / "export", NOW)
    unlink, left = Path.unlink, iter(range(4))

    def dies(path: Path, missing_ok: bool = False) -> None:
        if next(left, None) is None:
            raise OSError(5, "Input/output error")
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(OSError, match="Input/output"):
            prune(archive, "gamma", ALWAYS, everything)
    assert list(verify(archive, "gamma")) == []
    assert archive.last("gamma") == 10
    prune(archive, "gamma", ALWAYS, everything)
    used = {entry.sha256 for entry in archive.after("gamma", 0)}
    assert {path.stem for path in (archive.folder / "gamma/payloads").glob("*/*.gz")} == used
    assert archive.first("gamma") == 9


def payloads(archive: Archive) -> set[Path]:
    return set((archive.folder / "gamma/payloads").glob("*/*.gz"))


class Killed(BaseException):
    """The process ends here."""


def test_the_payload_of_an_append_that_crashed_is_not_pruned_but_the_append_finished(
    archive: Archive, tmp_path: Path
) -> None:
    def dies(step: str) -> None:
        if step == "draft safe":
            raise Killed

    export(archive, tmp_path / "export", NOW)
    with pytest.raises(Killed):
        Archive(archive.folder, dies).append("gamma", b"only copy", name="gamma.json", at=NOW)
    prune(archive, "gamma", date(2025, 10, 1), everything)
    assert contents(archive)[-1] == b"only copy"
    assert list(verify(archive, "gamma")) == []


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")])
@pytest.mark.parametrize("seq", [2, 6])
def test_nothing_is_pruned_while_an_entry_is_missing_or_cannot_be_read(
    archive: Archive, tmp_path: Path, seq: int, damage: Callable[[Path], None]
) -> None:
    export(archive, tmp_path / "export", NOW)
    archive.append("gamma", b"of no export", name="gamma.json", at=NOW)
    entry = archive.entry("gamma", seq)
    assert entry is not None
    damage(archive.entry_path(entry))
    before = payloads(archive)
    with pytest.raises(ArchiveDamaged, match="entry"):
        prune(archive, "gamma", date(2025, 10, 1), everything)
    assert payloads(archive) == before
    assert archive.first("gamma") == 1


def test_nothing_damaged_passes_for_an_export(archive: Archive, tmp_path: Path) -> None:
    entry = archive.entry("gamma", 3)
    assert entry is not None
    archive.payload_path(entry).write_bytes(b"damaged")
    with pytest.raises(ArchiveDamaged):
        export(archive, tmp_path / "export", NOW)
    assert exported(archive, "gamma") == []
    faults = list(verify(archive, "gamma"))
    assert [fault.seq for fault in faults] == [3, 8]  # both have these bytes


def test_a_missing_entry_is_found(archive: Archive) -> None:
    entry = archive.entry("gamma", 3)
    assert entry is not None
    archive.entry_path(entry).unlink()
    assert [fault.seq for fault in verify(archive, "gamma")] == [3]


def test_two_archives_do_not_go_into_one_export(archive: Archive, tmp_path: Path) -> None:
    export(archive, tmp_path / "export", NOW)
    other = Archive(tmp_path / "other")
    other.append("gamma", b"of another home", name="gamma.json", at=datetime(2025, 9, 1, tzinfo=UTC))
    with pytest.raises(ExportFailed, match="another archive's export"):
        export(other, tmp_path / "export", NOW)
    assert contents(Archive(tmp_path / "export")) == contents(archive)[:8]
    with pytest.raises(UsageError, match="in the archive itself"):
        export(archive, archive.folder / "export", NOW)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6))
def test_whatever_is_pruned_the_archive_and_its_export_together_hold_all(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("pruned")
    archive = filled(folder / "archive")
    before, furthest = contents(archive), 0
    for month, day, loaded in turns:
        export(archive, folder / "export", datetime(2025, month, 1, tzinfo=UTC))
        prune(archive, "gamma", date(2025, month, day + 1), lambda _source, upto=loaded: upto)
        assert contents(archive) == before[archive.first("gamma") - 1 :]
        furthest = max(furthest, loaded)
        assert archive.first("gamma") <= furthest + 1
    held = contents(Archive(folder / "export"))[: archive.first("gamma") - 1]
    assert held + contents(archive) == before
