"""Both stores of the ideas, empty, for tests that ask the same of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from b3_pipeline.lowdb import schema
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.model import COLLECTIONS, SCHEMA
from b3_pipeline.lowdb.store import Store
from b3_pipeline.lowdb.tables import Tables

TABLES, FILES = "tables", "files"
BEGIN = datetime(2025, 10, 14, 15, tzinfo=UTC)


def idea(**more: Any) -> dict[str, Any]:
    """An idea as a client sends it."""
    return {
        "title": "Exportação do painel",
        "description": "Ajustes em CSV",
        "category": "dashboard",
        "priority": "high",
        "status": "new",
        "tags": ["coleta"],
        **more,
    }


def system(**more: Any) -> dict[str, Any]:
    """A system as a client sends it."""
    given = {"name": "Coleta", "shortName": "S1", "port": 3001, "status": "online", "color": "#fff", "icon": "server"}
    return {**given, **more}


def link(idea_id: str, **more: Any) -> dict[str, Any]:
    """A link as a client sends it."""
    return {"idea_id": idea_id, "url": "https://example.org/1", "title": "replay", **more}


def file(idea_id: str, **more: Any) -> dict[str, Any]:
    """What is known of a file, as a client sends it."""
    given = {"filename": "f.pdf", "original_name": "opções 1.pdf", "mime_type": "application/pdf", "size": 10}
    return {"idea_id": idea_id, **given, **more}


def empty(dsn: str) -> None:
    """The schema as it is in this release, and nothing in its tables."""
    schema.upgrade(dsn)
    names = ["idea_tags", "idea_history", *(collection.table for collection in COLLECTIONS)]
    tables = sql.SQL(", ").join(sql.Identifier(SCHEMA, name) for name in names)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(sql.SQL("truncate {} restart identity cascade").format(tables))
        db.execute("truncate ideas.idea_history restart identity")


@dataclass
class Clock:
    """A clock that goes on by a second whenever somebody looks at it."""

    at: datetime = BEGIN

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


@dataclass(frozen=True)
class Made:
    """Opens a store of one kind, empty at first."""

    kind: str
    dsn: str
    folder: Path

    @asynccontextmanager
    async def opened(self, **how: Any) -> AsyncIterator[Store]:
        """The store, for one event loop."""
        if self.kind == FILES:
            yield Files(self.folder, Clock())
            return
        async with Tables(self.dsn, Clock(), **how) as tables:
            yield tables

    def run(self, story: Callable[[Store], Awaitable[None]], **how: Any) -> None:
        """Runs a story with the store."""

        async def told() -> None:
            async with self.opened(**how) as store:
                await story(store)

        asyncio.run(told())
