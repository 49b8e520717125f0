"""The commands on the LowDB files: b3 lowdb migrate, status, parity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, console, emit, guarded, say, table
from b3_pipeline.cli.running import Run
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.lowdb.migrating import Migration
    from b3_pipeline.lowdb.parity import TableParity
    from b3_pipeline.services import Engines
    from b3_pipeline.settings import Settings

lowdb_app = typer.Typer(no_args_is_help=True, help="The ideas and the documentation: LowDB's files into PostgreSQL.")
_COUNTS = ("candidates", "loaded", "rejected", "duplicate")


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    for command in (migrate, status, parity):
        lowdb_app.command()(guarded(command))
    app.add_typer(lowdb_app, name="lowdb")


def migrate(
    folder: Annotated[Path, typer.Argument(help="The folder with ideas.json and db.json.", metavar="DIR")],
    again: Annotated[
        bool, typer.Option("--again", help="Make the tables what the files say, whatever was written since.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Rejected records, too, are a failure.")] = False,
    as_json: Json = False,
) -> None:
    """Load LowDB's files into PostgreSQL and account for every record; TP-Capital's exports beside them into QuestDB.

    A file is one transaction. Running it again changes nothing; of a file that has changed since the tables become what it
    says, and the history keeps what was. Rejected records go to quarantine. A backup is made before and after, in lowdb/ of
    the home, and a log in migrations/. It refuses in the phases active and frozen, in which PostgreSQL is the truth, and without
    B3_LOWDB_DIR also once somebody else has written the tables.

    Examples:

      b3 lowdb migrate ./tp-capital/data

      b3 lowdb migrate ./tp-capital/data --json | jq .tables
    """
    result = migrate_folder(folder, again=again, show=not as_json)
    if strict and any(counts["rejected"] for counts in result["tables"].values()):
        result["ok"] = False
    if as_json:
        emit(result)
    else:
        _show(result)
    if not result["ok"]:
        raise typer.Exit(1)


def migrate_folder(folder: Path, *, again: bool = False, show: bool = True) -> dict[str, Any]:
    """Runs the migration of a folder in recorded Dagster runs; returns the JSON of `b3 lowdb migrate`."""
    from b3_pipeline.lowdb.migrating import files_of, require_files, require_phase
    from b3_pipeline.parsing.kinds import TP_KINDS
    from b3_pipeline.signals.incoming import survey_signals
    from b3_pipeline.tables import TP_TABLES

    require_files(folder)
    signals = any((folder / kind.file).exists() for kind in TP_KINDS)
    home = _settings().home
    with Run(
        show, f"Loading {folder.name}", lambda up: survey_signals(folder, home, up.postgres_dsn) if signals else []
    ) as run:
        require_phase(run.store.flags)  # before a run is recorded
        size = sum(found.payload.size for found in files_of(folder) if found.payload)
        run.progress.update(run.task, total=size + (run.progress.tasks[run.task].total or 0))
        errors = run.job("lowdb", {"lowdb_dir": str(folder.absolute()), "again": again})
        seconds = run.seconds
        if signals:
            loaded = run.load("signals", {"signals_dir": str(folder.absolute())}, [t.name for t in TP_TABLES])
        else:
            loaded = run.store.account.summary([t.name for t in TP_TABLES], run.rows, 0)
        return _result(run.store.ideas, errors, loaded, seconds)


def _result(ideas: Migration | None, errors: list[str], signals: dict[str, Any], seconds: float) -> dict[str, Any]:
    from b3_pipeline.lowdb.model import BY_TABLE

    outcomes = [] if ideas is None else ideas.outcomes
    counts = {table: dict.fromkeys(_COUNTS, 0) for table in BY_TABLE}
    counts |= {each.table: each.counts for outcome in outcomes for each in outcome.tables}
    # `absent` stands for elements of a list that are null; LowDB's files have no such thing
    counts |= {
        name: {c: n for c, n in each.items() if c in _COUNTS or (c == "absent" and n)}
        for name, each in signals["tables"].items()
    }
    files = [o.document() for o in outcomes] + [
        f for f in signals["files"] if f["outcome"] not in ("ignored", "missing")
    ]
    failed = [*errors, *signals.get("errors", ())]
    return {
        "ok": signals["ok"] and not failed,
        "tables": counts,
        "unchanged": all(file["outcome"] in ("unchanged", "missing") for file in files),
        "files": files,
        "backup": str(ideas.folder) if ideas and ideas.folder else None,
        "seconds": round(seconds + signals["seconds"], 3),
        **({"errors": failed} if failed else {}),
    }


def _show(result: dict[str, Any]) -> None:
    table(
        "Records = loaded + rejected + duplicate",
        ["table", "records", *_COUNTS[1:]],
        ([name, *(counts[c] for c in _COUNTS)] for name, counts in result["tables"].items()),
        ["records", *_COUNTS[1:]],
    )
    rows = ([file["file" if "file" in file else "name"], file["outcome"], file["reason"]] for file in result["files"])
    table("Files", ["file", "outcome", "reason"], rows)
    for failure in result.get("errors", ()):
        say(f"[bold red]Error:[/] {escape(failure)}")
    if any(counts["rejected"] for counts in result["tables"].values()):
        say("Rejected records are kept: [bold]b3 quarantine list[/].")
    if result["backup"]:
        say(f"The tables as they were and as they are, and the files: {escape(result['backup'])}")


def status(as_json: Json = False) -> None:
    """Show the phase of the ideas, what PostgreSQL has of each table, and what was loaded last.

    Exits with 1 when the schema is not there yet, or of another version than this release's.

    Example:

      b3 lowdb status --json | jq .items
    """
    from b3_pipeline.lowdb.loading import standing
    from b3_pipeline.lowdb.model import DOMAIN
    from b3_pipeline.lowdb.schema import IDEAS_SCHEMA, ideas
    from b3_pipeline.postgres.flags import Flags

    with _opened(show=not as_json) as (settings, servers), ideas(servers.postgres_dsn) as db:
        version, head = IDEAS_SCHEMA.version(db), IDEAS_SCHEMA.head()
        items = standing(db) if version == head else []
        phase = Flags(settings.home, servers.postgres_dsn).current().phase(DOMAIN)
    if as_json:
        emit({"ok": version == head, "phase": phase, "schema": version, "release": head, "items": items})
    else:
        heads = ["table", "rows", "loaded (UTC)", "file", *_COUNTS]
        shown = ([i["table"], i["rows"], i["loaded_at"], i["file"], *(i[c] for c in _COUNTS)] for i in items)
        table(f"The ideas, phase {phase}, schema {version or 'none'} of {head}", heads, shown, ["rows", *_COUNTS])
    if version != head:
        say("[bold]b3 lowdb migrate DIR[/] makes the tables.")
        raise typer.Exit(1)


def parity(
    folder: Annotated[
        Path | None, typer.Argument(help="The folder with the files. Default: B3_LOWDB_DIR.", metavar="DIR")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare LowDB's files with the tables, record by record and both ways; nothing is changed.

    Exits with 1 when they differ. Records that may not be stored are not compared.

    Example:

      b3 lowdb parity --json | jq '.tables[] | select(.ok | not) | .first'
    """
    from b3_pipeline.lowdb.parity import compare

    where = folder or _settings().lowdb_dir
    if where is None:
        raise UsageError("Which folder? Give DIR, or set B3_LOWDB_DIR.")
    with _opened(show=not as_json) as (_given, servers):
        found = compare(servers.postgres_dsn, where)
    ok = all(each.ok for each in found.values())
    if as_json:
        tables = {name: {"ok": each.ok, **each.numbers(), "first": each.first} for name, each in found.items()}
        emit({"ok": ok, "folder": str(where.absolute()), "tables": tables})
    else:
        _show_parity(found)
    if not ok:
        raise typer.Exit(1)


def _show_parity(found: dict[str, TableParity]) -> None:
    heads = ["records", "missing", "extra", "different", "rejected"]
    rows = ([name, *(each.numbers()[n] for n in ("source_keys", *heads[1:]))] for name, each in found.items())
    table("Files and tables", ["table", *heads], rows, heads)
    for name, each in found.items():
        for first in each.first:
            say(escape(f"{name} {first['id']}: file {first['file']}, table {first['table']}"))
    if not all(each.ok for each in found.values()):
        say("[bold]b3 lowdb migrate DIR --again[/] makes the tables what the files say.")


def _settings() -> Settings:
    from b3_pipeline.settings import Settings

    return Settings()


@contextmanager
def _opened(*, show: bool) -> Iterator[tuple[Settings, Engines]]:
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.services import engines

    settings = _settings()
    with engines(settings, ConsoleReport(console) if show else SILENT) as servers:
        yield settings, servers
