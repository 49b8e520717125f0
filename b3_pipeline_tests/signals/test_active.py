"""Signals that nobody deleted, in a real QuestDB: deletion hides, keeps, and outlives another import."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import Sealed, payload
from b3_pipeline.parsing.kinds import TP_KINDS
from b3_pipeline.questdb.client import QuestDB, QuestDBError
from b3_pipeline.signals.active import SIGNALS, NoSuchSignal, SignalKey, delete, find, newest
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.signals.exports import BOT, CHANNEL, SIGNAL, write

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
LATER = datetime(2025, 10, 15, 15, tzinfo=UTC)
KEY = SignalKey(datetime(2025, 10, 11, 12, 15, 40), "TP CAPITAL | OPCOES", "Swing Trade", "ITUBX36")
OTHERS = [
    {**SIGNAL, "timestamp": "2025-10-12T00:00:00Z"},
    {**SIGNAL, "channel": "Desconhecido"},
    {**SIGNAL, "signalType": "Day Trade"},
    {**SIGNAL, "asset": "ABEVK122"},
]


@pytest.fixture
def loader(db: QuestDB, tmp_path: Path) -> Loader:
    return Loader(db, tmp_path / "home", lambda: NOW, "run-1")


def unsealed(data: bytes, _member: str) -> Sealed:
    """Of an export that has no token."""
    return Sealed(data)


def load(loader: Loader, folder: Path, *records: object) -> dict[str, int]:
    file = write(folder, "tp_capital_signals", *records)
    return loader.load(payload(file, TP_KINDS[0], seal=unsealed), SIGNALS).counted.counts


def test_a_deleted_signal_is_hidden_alone_and_kept_as_it_was(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, SIGNAL, *OTHERS)
    before = newest(loader.db, 100)
    done = delete(loader.db, KEY, lambda: NOW, loader.home)
    assert (done.now, done.deleted_at, done.signal["raw_message"]) == (
        True,
        datetime(2025, 10, 14, 15),
        SIGNAL["rawMessage"],
    )
    after = newest(loader.db, 100)
    assert [s for s in before if s not in after] == [done.signal]
    assert len(after) == 4
    assert loader.db.scalar("select count() from tp_capital_signals") == 5
    columns, [tombstone] = loader.db.table("select * from tp_capital_signals_deleted")
    assert dict(zip(columns, tombstone, strict=True)) == {**done.signal, "deleted_at": done.deleted_at}


def test_a_deleted_signal_is_not_brought_back_by_another_import(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, SIGNAL)
    delete(loader.db, KEY, lambda: NOW, loader.home)
    counts = load(loader, tmp_path, SIGNAL, OTHERS[0])
    assert (counts["loaded"], counts["duplicate"]) == (1, 1)
    assert [s["ts"] for s in newest(loader.db, 100)] == [datetime(2025, 10, 12)]


def test_deleting_twice_keeps_the_first_time_also_when_the_signal_itself_has_expired(
    loader: Loader, tmp_path: Path
) -> None:
    load(loader, tmp_path, SIGNAL, OTHERS[0])
    first = delete(loader.db, KEY, lambda: NOW, loader.home)
    loader.db.execute("ALTER TABLE tp_capital_signals DROP PARTITION LIST '2025-10-11'")
    loader.db.wait_applied("tp_capital_signals")
    second = delete(loader.db, KEY, lambda: LATER, loader.home)
    assert (second.now, second.deleted_at, second.signal) == (False, first.deleted_at, first.signal)
    assert len(newest(loader.db, 100)) == 1


def test_two_that_delete_at_once_are_one_deletion(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, SIGNAL)
    done: list[bool] = []

    def bury(moment: datetime) -> None:
        with QuestDB(loader.db.address) as db:
            done.append(delete(db, KEY, lambda: moment, loader.home).now)

    threads = [threading.Thread(target=bury, args=(moment,)) for moment in (NOW, LATER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [False, True]


@pytest.mark.parametrize("given", OTHERS)
def test_a_key_that_is_not_there_is_a_sentence(loader: Loader, tmp_path: Path, given: dict) -> None:
    load(loader, tmp_path, given)
    for act in (lambda: find(loader.db, KEY), lambda: delete(loader.db, KEY, lambda: NOW, loader.home)):
        with pytest.raises(NoSuchSignal, match=r"2025-10-11T12:15:40Z in 'TP CAPITAL \| OPCOES'"):
            act()
    assert loader.db.scalar("select count() from tp_capital_signals_deleted") == 0


def test_the_newest_come_first_and_no_more_than_asked_for(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, SIGNAL, *OTHERS)
    assert [(s["ts"].day, s["channel"], s["signal_type"], s["asset"]) for s in newest(loader.db, 3)] == [
        (12, "TP CAPITAL | OPCOES", "Swing Trade", "ITUBX36"),
        (11, "Desconhecido", "Swing Trade", "ITUBX36"),
        (11, "TP CAPITAL | OPCOES", "Day Trade", "ITUBX36"),
    ]


def test_a_value_that_changes_in_the_source_does_not_change_what_stands(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, SIGNAL)
    assert load(loader, tmp_path, {**SIGNAL, "stop": 0.3})["rejected"] == 1
    assert find(loader.db, KEY)["stop"] == 0.37


def test_who_may_only_read_sees_the_views(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, SIGNAL, *OTHERS)
    delete(loader.db, KEY, lambda: NOW, loader.home)
    newer = {"updated_at": "2025-09-02T12:00:00Z", "status": "deleted"}
    channels = write(tmp_path, "telegram_channels", CHANNEL, {**CHANNEL, **newer}, {**CHANNEL, "id": "channel-2"})
    loader.load(payload(channels, TP_KINDS[2], seal=unsealed), TABLES["telegram_channels"])
    bots = write(tmp_path, "telegram_bots", *({**BOT, "token": None, **change} for change in ({}, newer)))
    loader.load(payload(bots, TP_KINDS[1], seal=unsealed), TABLES["telegram_bots"])
    address = loader.db.address
    with QuestDB(replace(address, user=address.reader, password=address.reader_password)) as reader:
        assert reader.query("select count() from tp_capital_signals_active") == [(4,)]
        channels = reader.query("select id, status from telegram_channels_current order by id")
        assert channels == [("channel-1", "deleted"), ("channel-2", "active")]
        assert reader.query("select id, status from telegram_bots_current") == [("bot-1", "deleted")]
        with pytest.raises(QuestDBError):
            reader.query("insert into tp_capital_signals(ts) values (0)")
