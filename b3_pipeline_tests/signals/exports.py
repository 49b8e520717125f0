"""TP-Capital's exports for tests: records as they come, and a vault that knows nothing yet."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

TOKEN = "7310000001:AAExxPlantedTokenOfATest_0123456789-Z"
OTHER = "7310000002:AAExxAnotherTokenOfTheTest_987654321-"
BOT = {
    "id": "bot-1",
    "username": "@Bot",
    "token": TOKEN,
    "bot_type": "Sender",
    "description": "",
    "status": "active",
    "created_at": "2025-09-01T12:00:00Z",
    "updated_at": "2025-09-01T12:00:00Z",
}
CHANNEL = {
    "id": "channel-1",
    "label": "Canal",
    "channel_id": -1001234567000,
    "channel_type": "source",
    "description": "",
    "status": "active",
    "signal_count": 60,
    "last_signal": "2025-10-13T14:00:00Z",
    "created_at": "2025-09-01T12:00:00Z",
    "updated_at": "2025-09-01T12:00:00Z",
}
SIGNAL = {
    "timestamp": "2025-10-11T12:15:40Z",
    "channel": "TP CAPITAL | OPCOES",
    "signalType": "Swing Trade",
    "asset": "ITUBX36",
    "buyMin": 0.62,
    "buyMax": 0.66,
    "target1": 0.87,
    "target2": 1.24,
    "targetFinal": None,
    "stop": 0.37,
    "source": "ingestion",
    "rawMessage": "TIPO Swing Trade\nATIVO ITUBX36",
}


def write(folder: Path, name: str, *records: object) -> Path:
    """A file of an export, `tp_capital_signals` or another, with these records."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    return file


def empty_vault(dsn: str) -> None:
    """Forgets all secrets: the tests of one session share a PostgreSQL, and each home has a key of its own."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("drop table if exists b3.secrets")
