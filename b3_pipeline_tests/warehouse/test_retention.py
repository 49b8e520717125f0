"""Retention: nothing goes before it is safely elsewhere, what went is not missed, and it comes back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from b3_pipeline import migration_log
from b3_pipeline.errors import UsageError
from b3_pipeline.places import Place, place
from b3_pipeline.quality.stored import count, during, partition_window
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse import retention as retention_module
from b3_pipeline.warehouse.exports import ExportError, changed, manifests, read
from b3_pipeline.warehouse.retention import Retention, expired, is_due, limited
from b3_pipeline.warehouse.retention_log import RetentionError, RetentionLog, Rule, known, open_retention_log
from b3_pipeline_tests.warehouse.made_rows import made, store
from b3_pipeline_tests.warehouse.taking import content, done, empty_log, names, on

SIGNALS, DELETED, TICKS, CAPTURES = (
    TABLES[name] for name in ("tp_capital_signals", "tp_capital_signals_deleted", "b3_dxy_ticks", "b3_captures")
)
NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
TODAY = datetime(2025, 10, 14)
DAY = timedelta(days=1)


@pytest.fixture
def log(postgres: str) -> Iterator[RetentionLog]:
    """An empty retention log, and none is left for others."""
    with empty_log(postgres) as opened:
        yield opened


Made = Callable[..., Retention]


@pytest.fixture
def make(db: QuestDB, log: RetentionLog, tmp_path: Path) -> Made:
    """A retention of the test's servers; the warehouse has loaded everything unless it says otherwise."""

    def of(**more: Any) -> Retention:
        given = {"loaded": lambda *_export: True, "place": place(tmp_path / "exports"), **more}
        return Retention(db, tmp_path / "home", clock=lambda: NOW, log=log, who="a test", **given)

    return of


def days_of(db: QuestDB, table: Table, days: int, rows: int = 2) -> None:
    """Rows on each of the last days, the last of which is today."""
    for day in range(days):
        store(db, table, made(table, TODAY - day * DAY + timedelta(hours=12), rows))


def test_what_lies_wholly_beyond_the_limit_goes_and_the_dry_run_said_so(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 33)
    retention = make()
    list(retention.exporting.run([SIGNALS]))
    before = retention.place.names()
    said = done(retention.look())
    assert said == {"2025-09-12": "would be dropped", "2025-09-13": "would be dropped"}
    assert count(db, SIGNALS, during(SIGNALS, ALWAYS)) == 66
    assert done(retention.run()) == dict.fromkeys(said, "dropped")
    assert names(db, SIGNALS)[0] == "2025-09-14"
    assert count(db, SIGNALS, during(SIGNALS, ALWAYS)) == 62
    assert done(retention.run()) == {}
    assert retention.place.names() == before


def test_a_partition_is_due_when_its_last_moment_is_as_old_as_the_limit() -> None:
    window = partition_window(SIGNALS, "2025-09-13")
    assert not is_due(SIGNALS, window, datetime(2025, 10, 13, 23, 59, tzinfo=UTC))
    assert is_due(SIGNALS, window, datetime(2025, 10, 14, tzinfo=UTC))
    assert not is_due(TABLES["b3_loads"], window, datetime(2035, 1, 1, tzinfo=UTC))
    assert [t.name for t in limited()][-1] == DELETED.name


def test_a_market_table_keeps_all_until_an_operator_says_otherwise(db: QuestDB, make: Made, log: RetentionLog) -> None:
    store(db, CAPTURES, made(CAPTURES, TODAY - 200 * DAY, 3))
    days_of(db, CAPTURES, 1)
    retention = make()
    [why] = done(retention.run()).values()
    assert "is off" in why
    on(log, CAPTURES)
    assert done(retention.run()) == {"2025-03-28": "dropped"}
    log.set_rule(Rule(SIGNALS.name, False, NOW, "a test", "not now"))
    days_of(db, SIGNALS, 32)
    assert all("is off" in why for why in done(retention.run()).values())


def test_the_newest_partition_stays_however_old_it_is(db: QuestDB, make: Made) -> None:
    store(db, SIGNALS, made(SIGNALS, TODAY - 60 * DAY, 3))
    store(db, SIGNALS, made(SIGNALS, TODAY - 50 * DAY, 3))
    assert done(make().run()) == {
        "2025-08-15": "dropped",
        "2025-08-25": "kept: it is the newest partition, which is never dropped",
    }


@pytest.mark.parametrize(
    ("held", "stays"),
    [
        (Window(datetime(2025, 9, 12, 23, 59), datetime(2025, 9, 13)), {"2025-09-12"}),
        (Window(datetime(2025, 9, 12), datetime(2025, 9, 13)), {"2025-09-12"}),
        (Window(datetime(2025, 9, 13), None), {"2025-09-13"}),
        (Window(None, None), {"2025-09-12", "2025-09-13"}),
        (Window(datetime(2025, 10, 1), None), set()),
    ],
)
def test_what_a_hold_covers_any_of_stays_until_it_is_released(
    held: Window, stays: set[str], db: QuestDB, make: Made, log: RetentionLog
) -> None:
    days_of(db, SIGNALS, 33)
    hold = log.hold(SIGNALS.name, held, "an auditor", "a question", NOW)
    assert log.hold(SIGNALS.name, held, "an auditor", "a question", NOW) == hold
    log.hold(TICKS.name, ALWAYS, "an auditor", "of another table", NOW)
    assert {name for name, what in done(make().look()).items() if "a question" in what} == stays
    assert {name for name, what in done(make().run()).items() if "a question" in what} == stays
    assert log.release(hold.id, "an auditor", "answered", NOW)
    assert not log.release(hold.id, "an auditor", "answered", NOW)
    assert done(make().run()) == dict.fromkeys(stays, "dropped")


def test_a_hold_that_comes_at_the_last_moment_is_heeded(db: QuestDB, make: Made, log: RetentionLog) -> None:
    days_of(db, SIGNALS, 32)

    def loaded(*_export: str) -> bool:
        log.hold(SIGNALS.name, ALWAYS, "an auditor", "wait", NOW)
        return True

    assert "wait" in done(make(loaded=loaded).run())["2025-09-13"]
    assert log.entries(10) == []


def test_nothing_goes_that_the_warehouse_has_not_loaded_as_it_is(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)
    asked: list[tuple[str, ...]] = []

    def loaded(*export: str) -> bool:
        asked.append(export)
        return False

    assert "the warehouse has not loaded it" in done(make(loaded=loaded).run())["2025-09-13"]
    [manifest] = manifests(make().place, SIGNALS).values()
    assert asked == [(SIGNALS.name, "2025-09-13", manifest.checksum)]
    assert "the warehouse has not loaded it" in done(make(loaded=loaded).look())["2025-09-13"]
    assert names(db, SIGNALS)[0] == "2025-09-13"


def test_a_damaged_export_is_made_anew_before_anything_goes(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)
    retention = make(loaded=lambda *_export: False)
    list(retention.run())
    [manifest] = manifests(retention.place, SIGNALS).values()
    path = Path(retention.place.url, manifest.files[0].name)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert done(make().run()) == {"2025-09-13": "dropped"}
    assert retention.place.sha256(manifest.files[0].name) == manifest.files[0].sha256


def test_nothing_goes_where_exports_do_not_last(db: QuestDB, make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    days_of(db, SIGNALS, 32)
    retention = make()
    put = Place.put

    def forget(self: Place, local: Path, name: str) -> None:
        put(self, local, name)
        self.write(name, self.read(name)[:-1] + b"?")

    monkeypatch.setattr(Place, "put", forget)
    [item] = retention.run()
    assert item.action == "damaged"
    assert "SHA-256" in item.why
    assert names(db, SIGNALS)[0] == "2025-09-13"


def test_a_row_that_comes_between_export_and_drop_keeps_the_partition(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)

    def loaded(*_export: str) -> bool:
        store(db, SIGNALS, made(SIGNALS, datetime(2025, 9, 13, 23), 1))
        return True

    assert "has changed since it was exported" in done(make(loaded=loaded).run())["2025-09-13"]
    assert done(make().run()) == {"2025-09-13": "dropped"}


def test_a_tombstone_stays_as_long_as_a_signal_of_its_time(db: QuestDB, make: Made, log: RetentionLog) -> None:
    for table in (SIGNALS, DELETED):
        store(db, table, made(table, TODAY - 100 * DAY, 2))
        days_of(db, table, 1)
    hold = log.hold(SIGNALS.name, ALWAYS, "an auditor", "wait", NOW)
    list(make().exporting.run([SIGNALS, DELETED]))
    assert "still has rows of its time" in next(item for item in make().look() if item.table == DELETED.name).why
    assert [i.action for i in make().run()] == ["kept", "kept"]
    log.release(hold.id, "an auditor", "", NOW)
    assert [(i.table, i.action) for i in make().look()] == [(t.name, "would be dropped") for t in (SIGNALS, DELETED)]
    assert [(i.table, i.action) for i in make().run()] == [(t.name, "dropped") for t in (SIGNALS, DELETED)]


def test_a_restore_brings_back_every_row_and_its_tombstones_and_the_next_run_leaves_them(
    db: QuestDB, make: Made, log: RetentionLog
) -> None:
    for table in (SIGNALS, DELETED):
        store(db, table, made(table, TODAY - 100 * DAY, 30))
        days_of(db, table, 1)
    before = {table.name: content(db, table) for table in (SIGNALS, DELETED)}
    retention = make()
    assert [i.action for i in retention.run()] == ["dropped", "dropped"]
    items = retention.restore(SIGNALS, "2025-07-06", "a question")
    assert [(i.table, i.name, i.rows, i.action) for i in items] == [
        (DELETED.name, "2025-07-06", 30, "restored"),
        (SIGNALS.name, "2025-07-06", 30, "restored"),
    ]
    assert {table.name: content(db, table) for table in (SIGNALS, DELETED)} == before
    assert [hold.why for hold in log.holds()] == ["restored: a question"] * 2
    assert all("restored: a question" in why for why in done(retention.run()).values())
    assert [entry.state for entry in log.entries(10)] == ["restored", "restored"]
    with pytest.raises(UsageError, match="is back"):
        retention.restore(SIGNALS, "2025-07-06", "again")
    for hold in log.holds():
        log.release(hold.id, "a test", "", NOW)
    assert [i.action for i in retention.run()] == ["dropped", "dropped"]
    kinds = [step["kind"] for step in migration_log.steps(retention.home)]
    assert sorted(kinds) == ["restore", "retention", "retention"]


@pytest.mark.parametrize("harm", ["flip", "remove", "manifest", "no manifest"])
def test_a_damaged_export_is_never_restored(harm: str, db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)
    retention = make()
    list(retention.run())
    [manifest] = manifests(retention.place, SIGNALS).values()
    name = "tp_capital_signals/_manifests/2025-09-13.json" if "manifest" in harm else manifest.files[0].name
    data = bytearray(retention.place.read(name))
    data[len(data) // 2] ^= 1
    retention.place.write(name, bytes(data))
    if harm in ("remove", "no manifest"):
        retention.place.remove(name)
    with pytest.raises(ExportError, match=r"damaged|no export that can be read"):
        retention.restore(SIGNALS, "2025-09-13", "a question")
    assert names(db, SIGNALS)[0] == "2025-09-14"


def test_rows_that_the_export_has_not_are_never_overwritten(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)
    retention = make()
    list(retention.run())
    exported = manifests(retention.place, SIGNALS)
    store(db, SIGNALS, made(SIGNALS, datetime(2025, 9, 13, 12), 1, salt=1))
    with pytest.raises(RetentionError, match="rows of 2025-09-13 that its export has not"):
        retention.restore(SIGNALS, "2025-09-13", "a question")
    assert "rows are there again" in done(retention.run())["2025-09-13"]
    assert content(db, SIGNALS)[0]["buy_min"] == 1 + 1 / 3
    taken = replace(retention.exporting, taken=known(None, retention.home))
    assert [i.action for i in taken.run([SIGNALS], Window(end=datetime(2025, 9, 14)))] == ["left"]
    assert manifests(retention.place, SIGNALS) == exported


def test_some_rows_of_an_interrupted_restore_are_no_other_rows(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32, rows=6)
    before = content(db, SIGNALS)
    retention = make()
    list(retention.run())
    store(db, SIGNALS, made(SIGNALS, datetime(2025, 9, 13, 12), 6).slice(2, 3))
    [item] = retention.restore(SIGNALS, "2025-09-13", "a question")
    assert (item.rows, content(db, SIGNALS)) == (6, before)


def test_what_was_taken_away_is_known_on_disk_while_postgresql_is_away(
    db: QuestDB, make: Made, postgres: str, tmp_path: Path
) -> None:
    days_of(db, SIGNALS, 34)
    list(make().run())
    taken = {SIGNALS.name: [Window(datetime(2025, 9, 11), datetime(2025, 9, 14))]}
    home = tmp_path / "home"
    assert expired(postgres, home) == taken
    for away in (None, "postgresql://nobody@127.0.0.1:1/b3"):
        assert expired(away, home) == taken
    assert known(None, home).rows == {SIGNALS.name: {0: 6}}
    assert expired(None, tmp_path / "another home") == {}
    (home / "retention.json").write_text("{")
    assert expired(None, home) == {}
    assert expired(postgres, home) == taken


def test_an_export_that_comes_to_what_was_just_taken_away_leaves_the_only_copy(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 33)
    retention = make()
    list(retention.exporting.run([SIGNALS]))
    exported, names_before = manifests(retention.place, SIGNALS), retention.place.names()
    old = Window(end=datetime(2025, 9, 14))
    racing = replace(retention.exporting, announce=lambda _what: list(retention.run()))
    assert [(i.name, i.action, i.why) for i in racing.run([SIGNALS], old, again=True)] == [
        ("2025-09-12", "unchanged", "a retention has taken it away just now"),
        ("2025-09-13", "unchanged", "a retention has taken it away just now"),
    ]
    assert (manifests(retention.place, SIGNALS), retention.place.names()) == (exported, names_before)
    assert [i.action for i in retention.restore(SIGNALS, "2025-09-13", "a question")] == ["restored"]


def test_an_export_leaves_rows_that_came_after_their_partition_was_taken_away(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)
    retention = make()
    list(retention.exporting.run([SIGNALS]))
    exported = manifests(retention.place, SIGNALS)

    def taken_and_back(_what: str) -> None:
        list(retention.run())
        store(db, SIGNALS, made(SIGNALS, datetime(2025, 9, 13, 12), 1, salt=1))

    racing = replace(retention.exporting, announce=taken_and_back)
    [item] = racing.run([SIGNALS], Window(end=datetime(2025, 9, 14)), again=True)
    assert item.action == "left"
    assert "rows are there again" in item.why
    assert manifests(retention.place, SIGNALS) == exported


def test_rows_that_came_after_an_interrupted_drop_do_not_take_the_place_of_the_export(
    db: QuestDB, make: Made, log: RetentionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    days_of(db, SIGNALS, 32)
    retention, drop = make(), Retention._drop

    def died(self: Retention, table: Table, manifest: Any) -> None:
        drop(self, table, manifest)
        store(db, SIGNALS, made(SIGNALS, datetime(2025, 9, 13, 12), 1, salt=1))
        raise RetentionError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Retention, "_drop", died)
        with pytest.raises(RetentionError, match="killed"):
            list(retention.run())
    exported = manifests(retention.place, SIGNALS)["2025-09-13"]
    assert "rows are there again" in done(make().run())["2025-09-13"]
    assert manifests(retention.place, SIGNALS)["2025-09-13"] == exported
    assert [e.state for e in log.standing()] == ["dropped"]


def test_a_retention_that_is_switched_off_while_it_works_drops_no_more(
    db: QuestDB, make: Made, log: RetentionLog
) -> None:
    days_of(db, SIGNALS, 33)

    def loaded(*_export: str) -> bool:
        log.set_rule(Rule(SIGNALS.name, False, NOW, "a test", "not now"))
        return True

    assert all("off" in why for why in done(make(loaded=loaded).run()).values())
    assert len(names(db, SIGNALS)) == 33


def test_an_export_of_what_somebody_else_dropped_leaves_it_and_says_so(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 3)
    exporting = make().exporting
    list(exporting.run([SIGNALS]))
    exported = manifests(exporting.place, SIGNALS)

    def drop(_what: str) -> None:
        db.execute("ALTER TABLE tp_capital_signals DROP PARTITION LIST '2025-10-12'")
        db.wait_applied(SIGNALS.name)

    [item] = replace(exporting, announce=drop).run([SIGNALS], Window(end=datetime(2025, 10, 13)))
    assert (item.action, "its rows are gone" in item.why) == ("left", True)
    assert manifests(exporting.place, SIGNALS) == exported


def test_nobody_exports_while_a_partition_is_looked_at_for_the_last_time_and_dropped(
    db: QuestDB, make: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    days_of(db, SIGNALS, 32)
    given, told = make(), list[str]()

    def looked(*about: Any) -> list[str]:
        lock = FileLock(given.home / "locks" / "tp_capital_signals.export.lock")
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
        told.append("held")
        return changed(*about)

    monkeypatch.setattr(retention_module, "changed", looked)
    assert done(given.run()) == {"2025-09-13": "dropped"}
    assert told == ["held"]


def test_what_somebody_changed_by_hand_is_exported_as_it_is_before_it_goes(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)
    retention = make()
    list(retention.exporting.run([SIGNALS]))
    db.execute("UPDATE tp_capital_signals SET buy_min = 9.5 WHERE ts < '2025-09-14'")
    db.wait_applied(SIGNALS.name)
    assert done(retention.run()) == {"2025-09-13": "dropped"}
    back = [
        row
        for piece in read(retention.place, manifests(retention.place, SIGNALS)["2025-09-13"])
        for row in piece.to_pylist()
    ]
    assert [row["buy_min"] for row in back] == [9.5, 9.5]


def test_one_run_at_a_time(db: QuestDB, make: Made, postgres: str) -> None:
    with open_retention_log(postgres) as other, other.alone(), pytest.raises(RetentionError, match="is at it"):
        list(make().run())


def test_a_run_that_drops_writes_a_log_that_says_what_and_how_to_go_back(db: QuestDB, make: Made) -> None:
    days_of(db, SIGNALS, 32)
    retention = make()
    [item] = retention.run()
    [step] = migration_log.steps(retention.home)
    assert step["counts"] == {"tp_capital_signals 2025-09-13": {"rows": 2, "bytes": item.bytes}}
    assert step["checksums"] == {"tp_capital_signals 2025-09-13": item.sha256}
    assert "b3 retention restore" in step["way_back"]
    assert list(retention.run()) == []
    assert len(migration_log.steps(retention.home)) == 1
