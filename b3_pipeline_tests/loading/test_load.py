"""A load, against a real QuestDB: every candidate is accounted for, and doing it again changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from b3_pipeline.loading import payloads
from b3_pipeline.loading.folder import Account, load_all, totals
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Found, Payload, PayloadChanged
from b3_pipeline.loading.quarantine import LoadRejects
from b3_pipeline.loading.writer import LoadError
from b3_pipeline.parsing.kinds import TP_KINDS, Kind, Parsing
from b3_pipeline.parsing.records import Chunk, FileRejected
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import NotApplied, QuestDB, QuestDBError
from b3_pipeline.questdb.schema import SchemaError
from b3_pipeline.sessions import Window
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.loading.ticks import NOW, TICKS, Tick, payload, records
from b3_pipeline_tests.signals.exports import SIGNAL, write

A, B = Tick(0, "dxy_08h50", 0.1), Tick(5, "dxy_08h55", 0.2)
SIGNALS = TABLES["tp_capital_signals"]


@pytest.fixture
def loader(db: QuestDB, tmp_path: Path) -> Loader:
    return Loader(db, tmp_path / "home", lambda: NOW, "run-1")


def counts(report: LoadReport) -> dict[str, int]:
    return {name: n for name, n in totals([report]).items() if n}


def rows(db: QuestDB) -> list[tuple]:
    return db.query("select ts, bucket, value, feed, load_id from b3_dxy_ticks order by ts, bucket, feed")


def test_a_new_key_is_loaded_and_its_row_names_feed_and_load(loader: Loader, tmp_path: Path) -> None:
    report = loader.load(payload(tmp_path, A, B), TICKS)
    assert counts(report) == {"candidates": 2, "loaded": 2}
    assert rows(loader.db) == [
        (A.ts, A.bucket, 0.1, "legacy_csv", report.counted.load_id),
        (B.ts, B.bucket, 0.2, "legacy_csv", report.counted.load_id),
    ]


def test_the_ledger_has_a_row_for_the_load(loader: Loader, tmp_path: Path) -> None:
    given_payload = payload(tmp_path, A, A, rejects=2, absent=1)
    report = loader.load(given_payload, TICKS)
    [kept] = loader.ledger.known(given_payload.sha256, TICKS.name, "legacy_csv")
    assert kept == report.load
    assert kept.counts == {"candidates": 5, "loaded": 1, "rejected": 2, "duplicate": 1, "absent": 1}
    assert (kept.run_id, kept.ts, kept.outcome) == ("run-1", datetime(2025, 10, 14, 15), "loaded")


def test_loading_a_payload_again_changes_nothing_and_says_so_with_the_counts_of_then(
    loader: Loader, tmp_path: Path
) -> None:
    first = loader.load(payload(tmp_path, A, B, B, absent=1), TICKS)
    before = rows(loader.db)
    again = loader.load(payload(tmp_path, A, B, B, absent=1), TICKS)
    assert again.outcome == "unchanged"
    assert again.load == first.load
    assert rows(loader.db) == before


def test_a_key_repeated_in_a_load_is_a_duplicate_if_equal_and_else_rejected(loader: Loader, tmp_path: Path) -> None:
    report = loader.load(payload(tmp_path, A, A, replace(A, value=0.9), A), TICKS)
    assert counts(report) == {"candidates": 4, "loaded": 1, "duplicate": 2, "rejected": 1}
    assert [row[2] for row in rows(loader.db)] == [0.1]
    [entry] = loader.quarantine.entries()
    assert (entry.reason, entry.column, entry.text) == ("conflicting_duplicate", "dxy_08h50", "line 4")


def test_a_key_that_another_load_stored_is_a_duplicate_if_equal(loader: Loader, tmp_path: Path) -> None:
    loader.load(payload(tmp_path, A), TICKS)
    before = rows(loader.db)
    report = loader.load(payload(tmp_path, A, B, name="more.json"), TICKS)
    assert counts(report) == {"candidates": 2, "loaded": 1, "duplicate": 1}
    assert rows(loader.db)[0] == before[0]


def test_another_value_than_stored_is_a_revision_and_both_values_are_kept(loader: Loader, tmp_path: Path) -> None:
    loader.load(payload(tmp_path, A, B), TICKS)
    report = loader.load(payload(tmp_path, replace(A, value=0.9), B, name="newer.json"), TICKS)
    assert counts(report) == {"candidates": 2, "loaded": 1, "duplicate": 1, "revised": 1}
    assert [row[2] for row in rows(loader.db)] == [0.9, 0.2]
    assert loader.db.query("select table_name, row_key, column_name, old_value, new_value from b3_revisions") == [
        ("b3_dxy_ticks", "2025-10-13T11:50:00|dxy_08h50|legacy_csv", "value", "0.1", "0.9")
    ]


def test_the_revised_load_is_still_unchanged_and_does_not_bring_the_old_value_back(
    loader: Loader, tmp_path: Path
) -> None:
    old = payload(tmp_path, A, B)
    loader.load(old, TICKS)
    loader.load(payload(tmp_path, replace(A, value=0.9), name="newer.json"), TICKS)
    assert loader.load(old, TICKS).outcome == "unchanged"
    assert [row[2] for row in rows(loader.db)] == [0.9, 0.2]


def test_feeds_never_overwrite_each_other(loader: Loader, tmp_path: Path) -> None:
    loader.load(payload(tmp_path, A), TICKS)
    report = loader.load(payload(tmp_path, replace(A, value=0.9), name="live.json", feed="yahoo_dxy"), TICKS)
    assert counts(report) == {"candidates": 1, "loaded": 1}
    assert [(row[2], row[3]) for row in rows(loader.db)] == [(0.1, "legacy_csv"), (0.9, "yahoo_dxy")]


def test_rows_that_are_gone_are_loaded_again_under_the_loads_own_id(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A, B)
    first = loader.load(content, TICKS)
    loader.db.execute("TRUNCATE TABLE b3_dxy_ticks")
    loader.db.wait_applied(TICKS.name)
    again = loader.load(content, TICKS)
    assert (again.outcome, again.counted.load_id) == ("loaded", first.counted.load_id)
    assert counts(again) == {"candidates": 2, "loaded": 2}
    assert len(rows(loader.db)) == 2


def test_rows_gone_that_were_another_loads_are_noticed_too(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A, name="one.json")
    twin = payload(tmp_path, A, absent=1, name="two.json")
    loader.load(content, TICKS)
    assert counts(loader.load(twin, TICKS)) == {"candidates": 2, "duplicate": 1, "absent": 1}
    loader.db.execute("TRUNCATE TABLE b3_dxy_ticks")
    loader.db.wait_applied(TICKS.name)
    assert counts(loader.load(twin, TICKS)) == {"candidates": 2, "loaded": 1, "absent": 1}


def test_rejects_that_are_gone_are_kept_again_and_nothing_else_changes(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A, rejects=2)
    first = loader.load(content, TICKS)
    (loader.home / "quarantine" / f"{first.counted.load_id}.jsonl").unlink()
    again = loader.load(content, TICKS)
    assert (again.outcome, again.load) == ("unchanged", first.load)
    assert len(list(loader.quarantine.entries())) == 2


def test_a_file_that_went_back_to_its_older_content_is_loaded_anew(loader: Loader, tmp_path: Path) -> None:
    def version(value: float) -> LoadReport:
        return loader.load(payload(tmp_path, replace(A, value=value), B), TICKS)

    first, second, third = version(0.1), version(0.9), version(0.1)
    assert counts(third) == {"candidates": 2, "loaded": 1, "duplicate": 1, "revised": 1}
    assert third.counted.load_id > first.counted.load_id
    assert [row[2] for row in rows(loader.db)] == [0.1, 0.2]
    assert (second.outcome, version(0.1).outcome) == ("loaded", "unchanged")


def test_a_file_that_goes_back_after_a_load_that_died_is_loaded_anew(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.load(payload(tmp_path, A), TICKS)
    interrupt(loader, payload(tmp_path, replace(A, value=0.9)), monkeypatch, after=3)
    loader.db.wait_applied(TICKS.name)
    assert [row[2] for row in rows(loader.db)] == [0.9]
    assert counts(loader.load(payload(tmp_path, A), TICKS)) == {"candidates": 1, "loaded": 1, "revised": 1}
    assert [row[2] for row in rows(loader.db)] == [0.1]


def test_a_file_that_goes_back_after_a_load_of_some_sessions_is_loaded_anew(loader: Loader, tmp_path: Path) -> None:
    loader.load(payload(tmp_path, A, B), TICKS)
    some = replace(loader, window=Window(end=B.ts))
    assert some.load(payload(tmp_path, replace(A, value=0.9), replace(B, value=0.9)), TICKS).outcome == "partial"
    loader.load(payload(tmp_path, A, B), TICKS)
    assert [row[2] for row in rows(loader.db)] == [0.1, 0.2]


def test_a_load_of_some_sessions_is_in_the_ledger_with_what_is_accounted_for(loader: Loader, tmp_path: Path) -> None:
    later = B.ts + timedelta(days=1)
    content = payload(tmp_path, A, A, B, Tick(2_000, "dxy_08h50", 0.3), rejects=2, absent=1)
    ledger = lambda: loader.ledger.known(content.sha256, TICKS.name, "legacy_csv")  # noqa: E731
    first = replace(loader, window=Window(end=B.ts)).load(content, TICKS)
    assert (first.outcome, first.reason) == ("partial", "2 records are of sessions that were not asked for")
    assert counts(first) == {"candidates": 5, "loaded": 1, "rejected": 2, "duplicate": 1, "absent": 1}
    assert [(load.outcome, load) for load in ledger()] == [("partial", first.load)]
    second = replace(loader, window=Window(B.ts, later)).load(content, TICKS)
    assert counts(second) == {"candidates": 6, "loaded": 2, "rejected": 2, "duplicate": 1, "absent": 1}
    whole = loader.load(content, TICKS)
    assert counts(whole) == {"candidates": 7, "loaded": 3, "rejected": 2, "duplicate": 1, "absent": 1}
    assert [(load.outcome, load) for load in ledger()] == [("loaded", whole.load)]
    assert {load.load_id for load in ledger()} == {first.counted.load_id}


def test_a_finished_load_whose_rows_are_gone_is_partial_when_some_sessions_only_come_back(
    loader: Loader, tmp_path: Path
) -> None:
    content = payload(tmp_path, A, B)
    loader.load(content, TICKS)
    loader.db.execute("TRUNCATE TABLE b3_dxy_ticks")
    loader.db.wait_applied(TICKS.name)
    assert counts(replace(loader, window=Window(end=B.ts)).load(content, TICKS)) == {"candidates": 1, "loaded": 1}
    [kept] = loader.ledger.known(content.sha256, TICKS.name, "legacy_csv")
    assert (kept.outcome, kept.loaded) == ("partial", 1)


def test_a_file_of_which_some_sessions_are_loaded_is_partial_in_the_account(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A)
    reports = load_all(replace(loader, window=Window(end=A.ts)), [content], TICKS)
    [file] = Account([Found(content.name, content.kind, content)], reports).outcomes()
    assert (file["outcome"], file["reason"]) == ("partial", "1 records are of sessions that were not asked for")


def test_rejects_show_no_sooner_than_their_load_in_the_ledger(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = payload(tmp_path, rejects=1)

    def crash(rejects: LoadRejects) -> None:
        rejects.drop()
        raise Crash

    monkeypatch.setattr(LoadRejects, "keep", crash)
    with pytest.raises(Crash):
        loader.load(content, TICKS)
    [announced] = loader.ledger.known(content.sha256, TICKS.name, "legacy_csv")
    assert announced.outcome == "started"


def signals(folder: Path, *changes: dict[str, Any], name: str = "tp_capital_signals") -> Payload:
    """An export of signals, whose rows do not name their load."""
    return payloads.payload(
        write(folder, name, *({**SIGNAL, **change} for change in changes)), replace(TP_KINDS[0], secret=None)
    )


TEN, ELEVEN, OTHER_TEN = {"asset": "ten"}, {"asset": "eleven"}, {"asset": "ten", "stop": 0.1}
LATER = {"asset": "later", "timestamp": "2025-10-12T12:00:00Z"}


@pytest.mark.parametrize("sent", [1, 2, 3])
def test_a_load_that_died_counts_true_though_its_rows_do_not_name_it(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    loader.load(signals(tmp_path, TEN, name="older"), SIGNALS)
    content = signals(tmp_path, OTHER_TEN, ELEVEN, ELEVEN, LATER)
    small = replace(loader, limit=1)
    interrupt(small, content, monkeypatch, after=sent, table=SIGNALS.name)
    wanted = {"candidates": 4, "loaded": 2, "rejected": 1, "duplicate": 1}
    assert counts(small.load(content, SIGNALS)) == wanted
    assert counts(small.load(content, SIGNALS)) == wanted
    assert len(list(loader.quarantine.entries())) == 1


def test_rows_gone_that_do_not_name_their_load_are_counted_as_they_come_back(loader: Loader, tmp_path: Path) -> None:
    loader.load(signals(tmp_path, TEN, name="older"), SIGNALS)
    content = signals(tmp_path, OTHER_TEN, ELEVEN)
    assert counts(loader.load(content, SIGNALS)) == {"candidates": 2, "loaded": 1, "rejected": 1}
    loader.db.execute("TRUNCATE TABLE tp_capital_signals")
    loader.db.wait_applied(SIGNALS.name)
    assert counts(loader.load(content, SIGNALS)) == {"candidates": 2, "loaded": 2}
    assert list(loader.quarantine.entries()) == []
    assert loader.load(content, SIGNALS).outcome == "unchanged"


def test_rows_that_do_not_name_their_load_are_missed_when_they_do_not_arrive(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = QuestDB.send
    lose = lambda db, table, *rows: None if table == SIGNALS.name else send(db, table, *rows)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(QuestDB, "send", lose)
        with pytest.raises(LoadError, match="rows that were written are not there"):
            loader.load(signals(tmp_path, TEN), SIGNALS)
    assert counts(loader.load(signals(tmp_path, TEN), SIGNALS)) == {"candidates": 1, "loaded": 1}


def test_rows_that_do_not_show_yet_are_waited_for_before_they_are_compared(loader: Loader, tmp_path: Path) -> None:
    loader.db.execute("ALTER TABLE b3_dxy_ticks SUSPEND WAL")
    with pytest.raises(NotApplied):
        loader.load(payload(tmp_path, A), TICKS)
    with pytest.raises(NotApplied):
        loader.load(payload(tmp_path, replace(A, value=0.9), name="newer.json"), TICKS)
    loader.db.execute("ALTER TABLE b3_dxy_ticks RESUME WAL")
    assert counts(loader.load(payload(tmp_path, A), TICKS)) == {"candidates": 1, "loaded": 1}
    report = loader.load(payload(tmp_path, replace(A, value=0.9), name="newer.json"), TICKS)
    assert counts(report) == {"candidates": 1, "loaded": 1, "revised": 1}


def test_rows_that_went_to_a_table_dropped_by_somebody_else_are_missed_and_arrive_the_next_time(
    loader: Loader, tmp_path: Path
) -> None:
    loader.load(payload(tmp_path, B), TICKS)
    with QuestDB(loader.db.address) as other:
        other.execute("DROP TABLE b3_dxy_ticks")
        schema.restore(other)
    with pytest.raises(LoadError, match="1 rows should bear this load's id, 0 do"):
        loader.load(payload(tmp_path, A, name="more.json"), TICKS)
    assert counts(loader.load(payload(tmp_path, A, name="more.json"), TICKS)) == {"candidates": 1, "loaded": 1}


def test_one_file_that_fails_does_not_stop_the_others(loader: Loader, tmp_path: Path) -> None:
    gone, changed = payload(tmp_path, A, name="gone.json"), payload(tmp_path, A, name="changed.json")
    gone.path.unlink()
    changed.path.write_bytes(b"x" * changed.size)
    reports = load_all(loader, [gone, changed, payload(tmp_path, B, name="good.json")], TICKS)
    assert [r.outcome for r in reports] == ["failed", "failed", "loaded"]
    assert "run the command again" in str(reports[1].reason)
    assert len(rows(loader.db)) == 1


def test_a_payload_that_cannot_be_kept_does_not_stop_the_others(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(given: Payload, _home: Path) -> None:
        if given.name == "one.json":
            raise OSError("no space left")

    monkeypatch.setattr("b3_pipeline.loading.folder.keep", full)
    both = [payload(tmp_path, A, name="one.json"), payload(tmp_path, B, name="two.json")]
    reports = load_all(loader, both, TICKS)
    assert [(r.outcome, r.reason) for r in reports] == [("failed", "no space left"), ("loaded", None)]


class Crash(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize(("sent", "many"), [(1, 99), (2, 99), (3, 99), (4, 99), (2, 1), (3, 1), (4, 1)])
def test_a_load_that_was_interrupted_goes_on_under_its_own_id(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int, many: int
) -> None:
    count_as_many(monkeypatch, many)
    loader.load(payload(tmp_path, replace(A, value=0.9), name="older.json"), TICKS)
    ticks = [A, A, *(Tick(m, "dxy_08h50", 0.3) for m in range(60_000, 60_006)), B]
    content = payload(tmp_path, *ticks, chunk=2)
    small = replace(loader, limit=3)
    interrupt(small, content, monkeypatch, after=sent)
    [interrupted] = loader.ledger.known(content.sha256, TICKS.name, "legacy_csv")
    assert interrupted.outcome == "started"

    report = small.load(content, TICKS)
    assert report.counted.load_id == interrupted.load_id
    assert counts(report) == {"candidates": 9, "loaded": 8, "duplicate": 1, "revised": 1}
    assert len(rows(loader.db)) == 8
    assert loader.db.scalar("select count() from b3_revisions") == 1


def count_as_many(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """From so many rows on, they go in the background and as Parquet."""
    for module in ("questdb.client", "loading.writer"):
        monkeypatch.setattr(f"b3_pipeline.{module}.MANY_ROWS", rows)


def test_what_fails_in_the_background_fails_the_load_which_then_goes_on_under_its_own_id(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_as_many(monkeypatch, 1)
    content = payload(tmp_path, *(Tick(m * 60_000, "dxy_08h50", 0.3) for m in range(6)))
    small = replace(loader, limit=1)
    bad_folder = tmp_path / "file"
    bad_folder.write_text("no folder")
    broken = QuestDB(replace(loader.db.address, import_folder=str(bad_folder)))
    with broken, pytest.raises(OSError, match="file"):
        replace(small, db=broken).load(content, TICKS)
    assert rows(loader.db) == []
    report = small.load(content, TICKS)
    assert counts(report) == {"candidates": 6, "loaded": 6}
    assert len(rows(loader.db)) == 6
    assert [report.load] == loader.ledger.known(content.sha256, TICKS.name, "legacy_csv")


def interrupt(
    loader: Loader, content: Payload, monkeypatch: pytest.MonkeyPatch, after: int, table: str = TICKS.name
) -> None:
    """Breaks a load off after it has sent so many times: the ledger first, then rows."""
    send, calls = QuestDB.send, 0

    def crash_at_the_nth(db: QuestDB, table: str, *args: object) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Crash
        send(db, table, *args)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(QuestDB, "send", crash_at_the_nth)
        with pytest.raises(Crash):
            loader.load(content, TABLES[table])


def test_a_value_that_a_later_load_stored_meanwhile_is_not_taken_back_but_kept_as_a_conflict(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = payload(tmp_path, A, B)
    interrupt(loader, content, monkeypatch, after=1)
    loader.load(payload(tmp_path, replace(A, value=0.9), name="newer.json"), TICKS)
    report = loader.load(content, TICKS)
    assert counts(report) == {"candidates": 2, "loaded": 1, "rejected": 1}
    assert [row[2] for row in rows(loader.db)] == [0.9, 0.2]
    assert [e.reason for e in loader.quarantine.entries()] == ["conflicting_duplicate"]


def test_a_row_that_a_later_load_revised_before_the_load_goes_on_still_counts_as_loaded(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = payload(tmp_path, A, B)
    interrupt(loader, content, monkeypatch, after=2)
    loader.load(payload(tmp_path, replace(A, value=0.9), name="newer.json"), TICKS)
    assert counts(loader.load(content, TICKS)) == {"candidates": 2, "loaded": 2}
    assert [row[2] for row in rows(loader.db)] == [0.9, 0.2]


def test_revisions_that_do_not_show_yet_are_waited_for_before_they_are_asked(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = payload(tmp_path, A, B)
    interrupt(loader, content, monkeypatch, after=2)
    loader.db.execute("ALTER TABLE b3_revisions SUSPEND WAL")
    try:
        for given_payload in (payload(tmp_path, replace(A, value=0.9), name="newer.json"), content):
            with pytest.raises(NotApplied):
                loader.load(given_payload, TICKS)
    finally:
        loader.db.execute("ALTER TABLE b3_revisions RESUME WAL")
    assert list(loader.quarantine.entries()) == []
    assert counts(loader.load(content, TICKS)) == {"candidates": 2, "loaded": 2}


def test_a_load_goes_on_though_the_parser_reads_its_file_otherwise_by_now(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = payload(tmp_path, A, B)
    interrupt(loader, content, monkeypatch, after=2)
    newer = Kind(**{**vars(content.kind), "parse": lambda _stream, _table: Parsing(iter([Chunk(records([B]))]))})
    report = loader.load(replace(content, kind=newer), TICKS)
    assert counts(report) == {"candidates": 1, "loaded": 1}
    assert report.reason is not None
    assert "1 rows of this load are from an earlier reading" in report.reason
    assert loader.load(payload(tmp_path, Tick(9, "dxy_08h50", 0.5), name="next.json"), TICKS).outcome == "loaded"


def test_a_file_that_was_rejected_once_and_is_good_now_is_a_load_of_today(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A)
    broken = Kind(**{**vars(content.kind), "parse": reject})
    assert loader.load(replace(content, kind=broken), TICKS).outcome == "rejected"
    loader.load(payload(tmp_path, replace(A, value=0.9), name="other.json"), TICKS)
    assert counts(loader.load(content, TICKS)) == {"candidates": 1, "loaded": 1, "revised": 1}
    assert [row[2] for row in rows(loader.db)] == [0.1]


def reject(_stream: object, _table: object) -> Parsing:
    raise FileRejected("not yet understood")


def test_a_file_that_was_loaded_once_and_is_rejected_now_counts_nothing(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A, A)
    first = loader.load(content, TICKS)
    report = loader.load(replace(content, kind=Kind(**{**vars(content.kind), "parse": reject})), TICKS)
    assert (report.outcome, counts(report)) == ("rejected", {})
    assert loader.ledger.known(content.sha256, TICKS.name, "legacy_csv") == [first.load]


def test_a_killed_loads_spool_is_cleared_by_the_next(loader: Loader, tmp_path: Path) -> None:
    left = loader.spool(TICKS) / "load-left"
    left.mkdir(parents=True)
    loader.load(payload(tmp_path, A), TICKS)
    assert not left.exists()


def test_one_payload_under_two_names_is_two_loads_and_a_renamed_one_is_the_same(loader: Loader, tmp_path: Path) -> None:
    one, two = payload(tmp_path, A, name="one.json"), payload(tmp_path, A, name="two.json")
    assert [counts(r) for r in load_all(loader, [one, two], TICKS)] == [
        {"candidates": 1, "loaded": 1},
        {"candidates": 1, "duplicate": 1},
    ]
    assert [r.outcome for r in load_all(loader, [one, two], TICKS)] == ["unchanged", "unchanged"]
    [renamed] = load_all(loader, [payload(tmp_path, A, name="three.json")], TICKS)
    assert renamed.outcome == "unchanged"


def test_a_payload_that_is_no_such_thing_is_rejected_whole_and_kept(loader: Loader, tmp_path: Path) -> None:
    bad = payload(tmp_path, A, broken=True)
    for _ in range(2):
        report = loader.load(bad, TICKS)
        assert report.outcome == "rejected"
        assert report.reason is not None
        assert "not what its name says" in report.reason
    assert rows(loader.db) == []
    [kept] = (loader.home / "quarantine" / "files").iterdir()
    assert kept.read_bytes() == bad.path.read_bytes()
    assert len(loader.ledger.known(bad.sha256, TICKS.name, "legacy_csv")) == 1


def test_a_table_of_another_shape_stops_the_load_before_its_first_row(loader: Loader, tmp_path: Path) -> None:
    loader.db.execute("ALTER TABLE b3_dxy_ticks DROP COLUMN provider")
    loader.db.wait_applied(TICKS.name)
    try:
        with pytest.raises(SchemaError, match="column provider SYMBOL is missing"):
            load_all(loader, [payload(tmp_path, A)], TICKS)
        assert loader.db.scalar("select count() from b3_dxy_ticks") == 0
        loader.db.wait_applied("b3_loads")
        assert loader.db.scalar("select count() from b3_loads") == 0
    finally:
        loader.db.execute("DROP TABLE b3_dxy_ticks")
        ddl = next(s for m in schema.migrations() for s in m.statements if "b3_dxy_ticks (" in s)
        loader.db.execute(ddl)


def test_a_file_that_changes_while_it_is_read_is_not_taken_for_what_it_was(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A)
    content.path.write_bytes(content.path.read_bytes().replace(b"0.1", b"0.2"))
    with pytest.raises(PayloadChanged, match="run the command again"):
        loader.load(content, TICKS)
    assert loader.ledger.known(content.sha256, TICKS.name, "legacy_csv") == []


def test_what_is_appended_to_a_file_after_it_was_found_is_no_part_of_it(loader: Loader, tmp_path: Path) -> None:
    content = payload(tmp_path, A)
    with content.path.open("ab") as file:
        file.write(b"more")
    assert counts(loader.load(content, TICKS)) == {"candidates": 1, "loaded": 1}


def test_a_server_that_is_away_is_an_error_that_says_so(tmp_path: Path, loader: Loader) -> None:
    nobody = replace(loader.db.address, pg_port=1, http_url="http://127.0.0.1:1")
    with QuestDB(nobody) as away, pytest.raises(QuestDBError, match="does not answer"):
        replace(loader, db=away).load(payload(tmp_path, A), TICKS)


@pytest.mark.parametrize("many", [1, 100])
def test_the_same_records_shuffled_and_spilled_give_the_same_rows_and_counts(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    count_as_many(monkeypatch, many)
    ticks = [Tick(m * 700, f"dxy_{m % 3}", m / 100) for m in range(400)]
    shuffled = random.Random(7).sample(ticks, len(ticks))
    first = loader.load(payload(tmp_path, *ticks), TICKS)
    wanted = [row[:4] for row in rows(loader.db)]
    loader.db.execute("TRUNCATE TABLE b3_dxy_ticks")
    loader.db.wait_applied(TICKS.name)
    spilling = replace(loader, limit=50)
    second = spilling.load(payload(tmp_path, *shuffled, name="shuffled.json", chunk=33), TICKS)
    assert counts(second) == counts(first) == {"candidates": 400, "loaded": 400}
    assert [row[:4] for row in rows(loader.db)] == wanted


ticks = st.builds(Tick, st.integers(0, 3), st.sampled_from(["a", "b"]), st.sampled_from([0.1, 0.2, 0.3]))


def expected(store: dict, tick_lists: tuple[Tick, ...]) -> dict[str, int]:
    """The table of FORMATS §3, row by row."""
    found = {"loaded": 0, "rejected": 0, "duplicate": 0, "revised": 0}
    here: dict[object, Tick] = {}
    for tick in tick_lists:
        if tick.key in here:
            found["duplicate" if here[tick.key].value == tick.value else "rejected"] += 1
            continue
        here[tick.key] = tick
        if tick.key not in store:
            found["loaded"] += 1
        elif store[tick.key] == tick.value:
            found["duplicate"] += 1
        else:
            found["loaded"] += 1
            found["revised"] += 1
        store[tick.key] = tick.value
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(ticks, min_size=1, max_size=8), st.integers(0, 2), st.integers(0, 2)), max_size=4))
def test_any_sequence_of_loads_closes_its_accounts_and_leaves_what_the_rules_say(
    loader: Loader, tmp_path: Path, given_loads: list[tuple[list[Tick], int, int]]
) -> None:
    if loader.db.scalar("select count() from b3_dxy_ticks"):
        loader.db.execute("TRUNCATE TABLE b3_dxy_ticks")
    loader.db.execute("TRUNCATE TABLE b3_loads")
    for table in (TICKS.name, "b3_loads"):
        loader.db.wait_applied(table)
    store: dict = {}
    seen: set[str] = set()
    for number, (rows_given, rejects, absent) in enumerate(given_loads):
        content = payload(tmp_path, *rows_given, name=f"{number}.json", rejects=rejects, absent=absent)
        if content.sha256 in seen:
            continue
        seen.add(content.sha256)
        report = loader.load(content, TICKS)
        wanted = expected(store, tuple(rows_given))
        wanted["rejected"] += rejects
        assert totals([report]) == {**wanted, "candidates": len(rows_given) + rejects + absent, "absent": absent}
    assert {(ts, bucket): value for ts, bucket, value, *_ in rows(loader.db)} == store


def test_a_clock_that_went_back_does_not_make_a_new_load_an_old_one(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loader.load(payload(tmp_path, A), TICKS)
    monkeypatch.setattr("b3_pipeline.loading.ledger.time.time_ns", lambda: 1)
    second = loader.load(payload(tmp_path, replace(A, value=0.9), name="newer.json"), TICKS)
    assert second.counted.load_id > first.counted.load_id
    assert [row[2] for row in rows(loader.db)] == [0.9]


def test_progress_is_told_every_byte_once(loader: Loader, tmp_path: Path) -> None:
    read: list[int] = []
    content: Payload = payload(tmp_path, A, A, replace(A, value=0.4))
    replace(loader, progress=read.append).load(content, TICKS)
    assert sum(read) == content.size
