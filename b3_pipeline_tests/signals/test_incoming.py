"""The recorded exports, loaded into a real QuestDB: the counts that are expected of them, and no token anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.errors import UsageError
from b3_pipeline.loading.folder import Account, load_all
from b3_pipeline.loading.ledger import COUNTS
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import payload
from b3_pipeline.parsing.kinds import TP_KINDS, Kind
from b3_pipeline.postgres.vault import open_vault
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.signals.incoming import survey_signals
from b3_pipeline.signals.tokens import Sealer, token_keys
from b3_pipeline.tables import TABLES, TP_TABLES
from b3_pipeline_tests.signals.exports import BOT, CHANNEL, OTHER, SIGNAL, TOKEN, empty_vault, write

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


@pytest.fixture
def loader(db: QuestDB, home: Path, postgres: str) -> Loader:
    empty_vault(postgres)
    return Loader(db, home, lambda: NOW, "run-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "export"
    made.mkdir()
    return made


def load(loader: Loader, folder: Path, postgres: str) -> dict:
    """What `b3 signals import --json` says, of a load without Dagster."""
    account = Account(survey_signals(folder, loader.home, postgres))
    for table in TP_TABLES:
        account.reports += load_all(loader, [p for f in account.files if (p := f.loadable)], table)
    rows = lambda name: loader.db.scalar(named("select count() from {t}", t=name))  # noqa: E731
    return account.summary([t.name for t in TP_TABLES], rows, seconds=1.0)


def bots(folder: Path, *records: object) -> Path:
    return write(folder, "telegram_bots", *records)


def counted(result: dict) -> dict[str, dict[str, int]]:
    return {table: {c: n[c] for c in COUNTS if c != "absent"} for table, n in result["tables"].items()}


def outcomes(result: dict) -> dict[str, str]:
    return {f["name"]: f["outcome"] for f in result["files"]}


def everything(loader: Loader) -> bytes:
    """All that is on disk in the home, and all rows of QuestDB's tables that may hold a text of an export."""
    files = [p.read_bytes() for p in loader.home.rglob("*") if p.is_file()]
    tables = (*(t.name for t in TABLES.values()), "b3_schema_history", "telegram_bots_current")
    rows = [repr(loader.db.query(named("select * from {t}", t=name))).encode() for name in tables]
    return b"\n".join([*files, *rows])


def secrets_of(postgres: str, home: Path) -> dict[str, str]:
    with open_vault(postgres, lambda: token_keys(home)) as vault:
        names = [name for (name,) in vault._db.execute("select name from b3.secrets where name like 'vault:%'")]
        return {name: vault.reveal(name) for name in names}


@pytest.mark.parametrize("name", ["clean", "dirty"])
def test_a_recorded_folder_gives_exactly_the_expected_counts_twice(
    loader: Loader, shared: Path, postgres: str, name: str
) -> None:
    source = shared / "data" / "lowdb" / name
    expected = json.loads((source / "EXPECTED.json").read_text())["tables"]
    expected = {t.name: expected[t.name] for t in TP_TABLES}
    first = load(loader, source, postgres)
    assert first["ok"]
    assert counted(first) == expected
    assert {t: n["rows_in_table"] for t, n in first["tables"].items()} == {t: n["loaded"] for t, n in expected.items()}
    ours = {kind.file for kind in TP_KINDS}
    others = {p.name for p in source.iterdir()} - ours
    assert outcomes(first) == dict.fromkeys(ours, "loaded") | dict.fromkeys(others, "ignored")
    again = load(loader, source, postgres)
    assert again["tables"] == first["tables"]
    assert outcomes(again) == dict.fromkeys(ours, "unchanged") | dict.fromkeys(others, "ignored")
    entries = list(loader.quarantine.entries())
    assert len(entries) == sum(n["rejected"] for n in expected.values())
    assert all(e.column and e.column.startswith("/") for e in entries)


def test_a_token_is_nowhere_but_encrypted_in_postgresql(loader: Loader, folder: Path, postgres: str) -> None:
    rejected = {**BOT, "id": "bot-2", "token": OTHER, "updated_at": "yesterday", "description": f"old: {TOKEN}"}
    bots(folder, BOT, rejected, {**BOT, "token": 12}, TOKEN, {**BOT, "username": None, "bot_token": OTHER})
    result = load(loader, folder, postgres)
    assert result["tables"]["telegram_bots"]["rejected"] == 4
    found = everything(loader)
    assert b"bot-2" in found
    for token in (TOKEN, OTHER):
        assert token.encode() not in found
        assert token.split(":")[1].encode() not in found
    [reference] = [row[0] for row in loader.db.query("select token from telegram_bots")]
    assert reference.startswith("vault:bot-1:")
    kept = secrets_of(postgres, loader.home)
    assert kept[reference] == TOKEN
    assert OTHER in kept.values()


def test_a_file_that_is_rejected_whole_is_kept_as_an_encrypted_copy(
    loader: Loader, folder: Path, postgres: str
) -> None:
    cut_off = json.dumps([BOT]).encode()[:-40]
    (folder / "telegram_bots.json").write_bytes(cut_off)
    result = load(loader, folder, postgres)
    [file] = [f for f in result["files"] if f["name"] == "telegram_bots.json"]
    assert (file["outcome"], result["ok"]) == ("rejected", False)
    assert "column" in file["reason"]
    assert "encrypted" in file["reason"]
    assert TOKEN.encode() not in everything(loader)
    [copy] = (loader.home / "quarantine" / "files").iterdir()
    with open_vault(postgres, lambda: token_keys(loader.home)) as vault:
        assert Sealer(vault).open(copy.read_bytes()) == cut_off


def test_a_second_import_is_a_duplicate_and_a_changed_token_a_changed_value(
    loader: Loader, folder: Path, postgres: str
) -> None:
    bots(folder, BOT)
    load(loader, folder, postgres)
    bots(folder, BOT, {**BOT, "updated_at": "2025-09-02T12:00:00Z", "token": OTHER})
    second = load(loader, folder, postgres)["tables"]["telegram_bots"]
    assert (second["loaded"], second["duplicate"], second["rejected"]) == (1, 1, 0)
    bots(folder, {**BOT, "token": OTHER})
    third = load(loader, folder, postgres)["tables"]["telegram_bots"]
    assert (third["loaded"], third["duplicate"], third["rejected"]) == (0, 0, 1)
    assert [e.reason for e in loader.quarantine.entries()] == ["conflicting_duplicate"]
    [current] = loader.db.query("select id, token, updated_at from telegram_bots_current")
    assert secrets_of(postgres, loader.home)[current[1]] == OTHER


def test_a_token_in_a_signal_or_a_channel_reaches_neither_quarantine_nor_questdb(
    loader: Loader, folder: Path, postgres: str
) -> None:
    write(
        folder,
        "tp_capital_signals",
        {**SIGNAL, "rawMessage": f"bot {TOKEN}"},
        {**SIGNAL, "timestamp": "today", "rawMessage": f"bot {OTHER}"},
    )
    write(folder, "telegram_channels", {**CHANNEL, "description": f"bot {TOKEN}"}, {**CHANNEL, "label": OTHER, "id": 1})
    tables = load(loader, folder, postgres)["tables"]
    assert (tables["tp_capital_signals"]["loaded"], tables["tp_capital_signals"]["rejected"]) == (1, 1)
    assert loader.db.query("select raw_message from tp_capital_signals") == [("bot [hidden]",)]
    assert loader.db.query("select description from telegram_channels") == [("bot [hidden]",)]
    found = everything(loader)
    assert not any(token.encode() in found for token in (TOKEN, OTHER))


def test_a_file_of_signals_that_is_cut_off_is_kept_encrypted_for_it_may_hold_a_token(
    loader: Loader, folder: Path, postgres: str
) -> None:
    (folder / "tp_capital_signals.json").write_text(json.dumps([{**SIGNAL, "rawMessage": TOKEN}])[:-1])
    assert outcomes(load(loader, folder, postgres))["tp_capital_signals.json"] == "rejected"
    assert TOKEN.encode() not in everything(loader)


@pytest.mark.parametrize("kind", TP_KINDS)
def test_no_file_of_an_export_is_read_without_sealing(folder: Path, kind: Kind) -> None:
    with pytest.raises(UsageError, match="holds secrets"):
        payload(write(folder, kind.name, BOT), kind)


def test_a_file_of_bots_that_none_can_be_is_rejected_and_not_copied(
    loader: Loader, folder: Path, postgres: str
) -> None:
    bots(folder, BOT, "x" * TP_KINDS[1].limit)
    result = load(loader, folder, postgres)
    [file] = [f for f in result["files"] if f["name"] == "telegram_bots.json"]
    assert file["outcome"] == "rejected"
    assert "too large" in file["reason"]
    assert not (loader.home / "quarantine" / "files").exists()


@pytest.mark.parametrize("text", ["", " \n", "\ufeff"])
def test_an_empty_file_is_empty(loader: Loader, folder: Path, postgres: str, text: str) -> None:
    for kind in TP_KINDS:
        (folder / kind.file).write_text(text)
    assert outcomes(load(loader, folder, postgres)) == {kind.file: "empty" for kind in TP_KINDS}


def test_members_that_nothing_uses_are_reported(loader: Loader, folder: Path, postgres: str) -> None:
    bots(folder, {**BOT, "owner": "desk"})
    [file] = [f for f in load(loader, folder, postgres)["files"] if f["outcome"] == "loaded"]
    assert file["reason"] == "columns that nothing uses: owner"
