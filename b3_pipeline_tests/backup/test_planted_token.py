"""A token that came in by every way there is: no file of the home, no export and no backup has it, and no row of QuestDB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from pyarrow import parquet

from b3_pipeline.backup.packing import PACKED, unpack
from b3_pipeline.loading.archived import archive_of, drain
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.places import place
from b3_pipeline.postgres.vault import open_vault
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.signals import intake
from b3_pipeline.signals.incoming import survey_signals
from b3_pipeline.signals.tokens import Sealer, token_keys
from b3_pipeline.signals.versions import BOTS, Versions
from b3_pipeline.sources.inbox import SOURCE, Inbox
from b3_pipeline.tables import TABLES, TP_TABLES
from b3_pipeline.warehouse.exports import export_partition, partitions
from b3_pipeline_tests.backup.conftest import Home, home_with_history
from b3_pipeline_tests.signals.exports import BOT, OTHER, SIGNAL, TOKEN, write

pytestmark = [pytest.mark.xdist_group("backup"), pytest.mark.slow]


@pytest.fixture
def busy(shared: Path) -> Iterator[Home]:
    """A home of the test's own: what is written into it stays there."""
    with home_with_history(shared) as home:
        yield home


def plant(home: Home, db: QuestDB, folder: Path) -> None:
    """Brings the tokens in: an export's folder, a bot that is entered, signals by the API's way and by the inbox."""
    settings, archive = home.settings, archive_of(home.folder)
    loader = Loader(db, home.folder, settings.clock, "run-1")
    write(folder, "telegram_bots", BOT, {**BOT, "id": "bot-2", "token": OTHER, "username": ["no", TOKEN]})
    write(folder, "tp_capital_signals", {**SIGNAL, "rawMessage": f"fale com {TOKEN}"}, {**SIGNAL, "buyMin": TOKEN})
    (folder / "telegram_channels.json").write_text(f'[{{"label": "{TOKEN}"', "utf-8")
    payloads = [p for found in survey_signals(folder, home.folder, home.servers.postgres_dsn) if (p := found.loadable)]
    for table in TP_TABLES:
        load_all(loader, payloads, table)
    with open_vault(home.servers.postgres_dsn, lambda: token_keys(home.folder)) as vault:
        bots = Versions(db, home.folder, settings.clock, BOTS, Sealer(vault).name)
        bots.create(
            "bot-3",
            {"username": "@Bot", "token": TOKEN, "bot_type": "Sender", "description": OTHER, "status": "active"},
        )
    batch = intake.read(json.dumps([{**SIGNAL, "asset": "PETR4", "rawMessage": TOKEN}, {"token": OTHER}]).encode())
    intake.keep(archive, batch, intake.judged(batch, []), settings.clock())
    inbox = folder / "inbox"
    inbox.mkdir()
    (inbox / "a.jsonl").write_text(
        f'{json.dumps({**SIGNAL, "asset": "VALE3", "secret": OTHER})}\n{{"a": "{TOKEN}\n', "utf-8"
    )
    Inbox(inbox, archive, settings.clock).look()
    drained = drain(loader, archive, SOURCE, 0, lambda: False)
    assert drained.problem is None
    assert db.scalar("select count() from tp_capital_signals") == 3
    assert db.scalar("select count() from telegram_bots") == 2


def test_a_planted_token_is_nowhere_but_in_the_vault(busy: Home, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    with QuestDB(busy.servers.questdb) as db:
        plant(busy, db, tmp_path)
        for table in TP_TABLES:
            for partition in partitions(db, table):
                export_partition(db, table, partition, place(exports), busy.settings.clock())
        rows = [str(row) for name in TABLES for row in db.query(named("select * from {t}", t=name))]
    archive = archive_of(busy.folder)
    received = [archive.read(entry) for source in archive.sources() for entry in archive.after(source, 0)]
    busy.create()
    unpacked = tmp_path / "unpacked"
    for path in (busy.folder / "backups").rglob(f"*{PACKED}"):
        unpack(path, unpacked / path.name)
    assert len(list(unpacked.iterdir())) > 1
    exported = [str(parquet.read_table(path).to_pylist()) for path in exports.rglob("*.parquet")]
    assert any("PETR4" in rows for rows in exported)
    files = [path for folder in (busy.folder, exports, unpacked) for path in folder.rglob("*") if path.is_file()]
    tokens = [token.encode() for token in (TOKEN, OTHER)]
    everything = (path.read_bytes() for path in files)
    for content in chain(received, everything, (text.encode() for text in rows + exported)):
        assert not any(token in content for token in tokens)
