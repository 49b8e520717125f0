"""LowDB files of a test: written from a few records, and loaded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from b3_pipeline.loading.payloads import payload
from b3_pipeline.lowdb.loading import Loading, Outcome
from b3_pipeline.lowdb.reading import KINDS

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


def gone(dsn: str) -> None:
    """Takes the schema away."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("drop schema if exists ideas cascade")


def asked(dsn: str, query: str, *values: Any) -> list[Any]:
    """The rows of a query."""
    with psycopg.connect(dsn, autocommit=True) as db:
        return db.execute(query.encode(), values).fetchall()


def idea(number: int, **more: Any) -> dict[str, Any]:
    """An idea as the files have it."""
    return {
        "id": str(number),
        "title": f"Painel {number}",
        "description": "Exportação de opções",
        "category": "dashboard",
        "priority": "high",
        "status": "new",
        "tags": ["coleta", "painel"],
        "createdAt": "2025-06-25T11:02:00.000Z",
        "updatedAt": None,
        **more,
    }


def system(number: int, **more: Any) -> dict[str, Any]:
    """A system as the file has it."""
    named = {"id": number, "name": f"Coleta {number}", "shortName": f"S{number}", "port": 3000 + number}
    return {**named, "status": "online", "color": "#ffffff", "icon": "server", **more}


def link(number: int, idea_id: str, **more: Any) -> dict[str, Any]:
    """A link as the file has it."""
    return {"id": number, "idea_id": idea_id, "url": f"https://example.org/{number}", "title": "replay", **more}


def documentation(**members: Any) -> dict[str, Any]:
    """What db.json holds; nothing where nothing is given."""
    return {"systems": [], "ideas": [], "links": [], "files": [], **members}


def write(folder: Path, document: Any, name: str = "ideas.json") -> Path:
    """A file with a document; a list is one of ideas."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"ideas": document} if isinstance(document, list) else document, ensure_ascii=False, indent=2)
    (folder / name).write_text(text, "utf-8")
    return folder / name


def load(dsn: str, home: Path, path: Path, **more: Any) -> Outcome:
    """Loads a file by its name."""
    [kind] = [kind for kind in KINDS if kind.file == path.name]
    return Loading(dsn, home, lambda: NOW, "test", **more).load(payload(path, kind))


def counts(outcome: Outcome) -> dict[str, tuple[int, ...]]:
    """By table candidates, loaded, rejected, duplicate."""
    return {each.table: tuple(each.counts.values()) for each in outcome.tables}
