"""The commands on the schema: b3 schema apply, status, diff."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from b3_pipeline.cli.output import Json, emit, guarded, say, table

if TYPE_CHECKING:
    from b3_pipeline.questdb.client import QuestDB

schema_app = typer.Typer(no_args_is_help=True, help="The versioned schema of QuestDB.")


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    for command in (apply, status, diff):
        schema_app.command()(guarded(command))
    app.add_typer(schema_app, name="schema")


@contextmanager
def _database() -> Iterator[QuestDB]:
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    with engines(Settings()) as servers, QuestDB(servers.questdb) as db:
        yield db


def apply(as_json: Json = False) -> None:
    """Bring the server to the newest version; make tables and views again that are gone. Again, it changes nothing.

    Example:

      b3 schema apply
    """
    from b3_pipeline.questdb import schema
    from b3_pipeline.settings import Settings
    from b3_pipeline.tables import TABLES

    settings = Settings()
    with _database() as db:
        done = schema.apply(db, settings.clock, lock=schema.lock_of(settings))
        restored = schema.restore(db)
    if as_json:
        emit({"ok": True, "applied": [m.version for m in done], "restored": restored})
        return
    lines = [f"Applied V{m.version:03} {m.name}." for m in done]
    lines += [f"{name} was gone and is made again, empty: load it anew." for name in restored if name in TABLES]
    lines += [f"The view {name} is made again." for name in restored if name not in TABLES]
    say("\n".join(lines) or "Everything was applied already.")


def status(as_json: Json = False) -> None:
    """Every version with its state: applied, pending, changed since, or missing here.

    Example:

      b3 schema status
    """
    from dataclasses import asdict

    from b3_pipeline.questdb import schema

    with _database() as db:
        versions = schema.status(db)
    ok = all(v.state == "applied" for v in versions)
    if as_json:
        emit({"ok": ok, "versions": [asdict(v) for v in versions]})
    else:
        rows = (
            [f"V{v.version:03}", v.name, v.state, v.at and f"{v.at:%Y-%m-%d %H:%M}", v.seconds and f"{v.seconds:.2f}"]
            for v in versions
        )
        table("Schema", ["version", "name", "state", "applied (UTC)", "seconds"], rows)
    if not ok:
        raise typer.Exit(1)


def diff(as_json: Json = False) -> None:
    """Where the SQL files, the contract and the server differ.

    Example:

      b3 schema diff --json
    """
    from b3_pipeline.questdb import schema

    with _database() as db:
        drift = schema.diff(db)
    if as_json:
        emit({"ok": not drift, "tables": drift})
    elif not drift:
        say("No drift: SQL files, contract and server say the same.")
    else:
        rows = [(t, side, line) for t, sides in drift.items() for side, lines in sides.items() for line in lines]
        table("Drift from the contract", ["table", "where", "difference"], rows)
        say(
            "A table that is missing: [bold]b3 schema apply[/]. A column or key that differs: put it back by hand in "
            "QuestDB's console (ALTER TABLE … ADD COLUMN, DROP COLUMN, DEDUP ENABLE UPSERT KEYS), then look again."
        )
    if drift:
        raise typer.Exit(1)
