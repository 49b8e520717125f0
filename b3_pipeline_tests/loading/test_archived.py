"""What is loaded again from the raw archive changes nothing that is there, whichever part of it is asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from b3_pipeline.loading.archived import Drained, archive_of, drain, found, loaded_upto
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import payload
from b3_pipeline.loading.taken import Taken, TakenUnreadable
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import Window
from b3_pipeline.sources.archive import Archive
from b3_pipeline.tables import TABLES, Table

[DXY] = [kind for kind in LEGACY_KINDS if kind.file == "dxy_coleta.csv"]
TICKS = TABLES["b3_dxy_ticks"]
FIRST, SECOND, THIRD = (datetime(2025, 10, day, 15, tzinfo=UTC) for day in (13, 14, 15))


def state(value: float, more: str = "") -> bytes:
    """The file with one morning's value of the 13th, as it was at some time."""
    head = "data,dxy_08h50,dxy_08h55,dxy_09h00,fonte,status_08h50,status_08h55,status_09h00\n"
    row = f"13-10-2025,{value},0.2,0.3,Yahoo Finance,sucesso,sucesso,sucesso\n"
    return (head + row + more).encode()


@pytest.fixture
def loader(db: QuestDB, tmp_path: Path) -> Loader:
    return Loader(db, tmp_path / "home", lambda: THIRD, "test")


@pytest.fixture
def archive(loader: Loader) -> Archive:
    return archive_of(loader.home)


def give(archive: Archive, *given: tuple[datetime, bytes]) -> None:
    for at, content in given:
        assert archive.append(DXY.name, content, name=DXY.file, at=at) is not None


def replay(loader: Loader, archive: Archive, first: date | None = None, last: date | None = None) -> list[str]:
    files = found(archive, [DXY.name], first, last)
    return [report.outcome for report in load_all(loader, [f.payload for f in files if f.payload], TICKS)]


def value(db: QuestDB) -> float:
    db.wait_applied(TICKS.name)
    return db.scalar("select value from b3_dxy_ticks order by ts limit 1")


def test_a_range_that_ends_before_a_correction_does_not_take_it_back(loader: Loader, archive: Archive) -> None:
    give(archive, (FIRST, state(0.1)), (SECOND, state(0.9)))
    assert replay(loader, archive) == ["loaded", "loaded"]
    assert value(loader.db) == 0.9
    assert replay(loader, archive, last=FIRST.date()) == ["unchanged"]
    assert value(loader.db) == 0.9


def test_a_file_that_was_loaded_otherwise_since_is_not_taken_back_by_the_archive(
    loader: Loader, archive: Archive, tmp_path: Path
) -> None:
    give(archive, (FIRST, state(0.1)))
    assert replay(loader, archive) == ["loaded"]
    (tmp_path / DXY.file).write_bytes(state(0.9))
    [report] = load_all(loader, [payload(tmp_path / DXY.file, DXY)], TICKS)
    assert (report.outcome, value(loader.db)) == ("loaded", 0.9)
    assert replay(loader, archive) == ["unchanged"]
    assert value(loader.db) == 0.9


def test_empty_tables_are_brought_to_the_newest_state_though_it_is_an_older_one_again(
    loader: Loader, archive: Archive
) -> None:
    give(archive, (FIRST, state(0.1)), (SECOND, state(0.9)), (THIRD, state(0.1)))
    assert replay(loader, archive)[:2] == ["loaded", "loaded"]
    assert value(loader.db) == 0.1
    assert replay(loader, archive) == ["unchanged"] * 3
    assert value(loader.db) == 0.1


def test_a_range_is_found_without_reading_the_years_before_it(
    loader: Loader, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(archive, *((FIRST - timedelta(days=30 - n), state(n)) for n in range(20)), (THIRD, state(0.9)))
    read: list[int] = []
    entry = Archive.entry
    monkeypatch.setattr(Archive, "entry", lambda self, source, seq: read.append(seq) or entry(self, source, seq))
    [file] = found(archive, [DXY.name], THIRD.date())
    assert file.payload is not None
    assert file.payload.size == len(state(0.9))
    assert min(read) == 20


def test_an_entry_whose_expired_records_cannot_be_judged_stays_next_and_its_new_ones_are_written(
    loader: Loader, archive: Archive
) -> None:
    give(
        archive,
        (THIRD, state(0.1, "15-10-2025,0.4,0.5,0.6,Yahoo Finance,sucesso,sucesso,sucesso\n")),
        (THIRD, state(0.2)),
    )
    expired = Window(datetime(2025, 10, 13), datetime(2025, 10, 14))
    readable = False

    def exported(table: Table, _day: datetime) -> pa.Table:
        if not readable:
            raise TakenUnreadable("There is no export of it.")
        return table.arrow_schema().empty_table()

    taken = Taken(lambda _table: (expired,), exported, lambda _table, _load_id: 0)
    later = replace(loader, clock=lambda: THIRD + timedelta(days=9_000), taken=taken)

    def turn() -> Drained:
        return drain(later, archive, DXY.name, 0, lambda: False)

    for _again in range(2):
        done = turn()
        assert (done.seq, loaded_upto(archive, DXY.name)) == (0, 0)
        assert "There is no export of it." in str(done.problem)
        loader.db.wait_applied(TICKS.name)
        assert loader.db.scalar("select count() from b3_dxy_ticks") == 3
    readable = True
    done = turn()
    assert (done.problem, done.seq, loaded_upto(archive, DXY.name)) == (None, 2, 2)


def test_what_a_window_leaves_open_stops_no_drain(loader: Loader, archive: Archive) -> None:
    give(archive, (THIRD, state(0.1)))
    done = drain(replace(loader, window=Window(datetime(2025, 10, 15))), archive, DXY.name, 0, lambda: False)
    assert (done.problem, done.seq, [report.outcome for report in done.reports]) == (None, 1, ["partial"])
