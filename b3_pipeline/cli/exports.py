"""The command that exports: b3 export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, console, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.sessions import Window
    from b3_pipeline.tables import Table
    from b3_pipeline.warehouse.exporting import Exporting, Item

_DAYS = ["%Y-%m-%d"]
From = Annotated[
    datetime | None, typer.Option("--from", help="The first day, UTC.", formats=_DAYS, metavar="YYYY-MM-DD")
]
To = Annotated[datetime | None, typer.Option("--to", help="The last day, UTC.", formats=_DAYS, metavar="YYYY-MM-DD")]
#: What of an export is as it should be.
_WELL = ("exported", "unchanged", "verified")


def register(app: typer.Typer) -> None:
    """Adds this command to `b3`."""
    app.command("export")(guarded(export))


def export(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Only these; all of them unless given.", metavar="TABLE…")
    ] = None,
    first: From = None,
    last: To = None,
    into: Annotated[
        str | None, typer.Option("--into", help="Another place than B3_EXPORTS_URL: a folder, or s3://bucket/prefix.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Export nothing: look whether all exports are sound.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Write also what stands already, over a damaged file.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Use the place from now on, though it has another home's exports.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export every closed partition as Parquet files that DuckDB, pandas and Spark read, with checksums.

    The newest partition of a table is still open and comes next time. Running it again changes nothing where the rows
    are as they were: the server says how many there are and when they were written. What somebody changed by hand past
    the loads --verify finds and --again exports.

    --verify reads all files back and compares them with the tables; it exits with 1 when a file is damaged or missing, a
    table has changed since, a partition has no export, or what a retention has dropped is lost.

    A place has the exports of one home. One that was restored from a backup is another home: it takes over with
    --take-over, once that one works no more.

    Examples:

      b3 export

      b3 export b3_adjustments tp_capital_signals --from 2025-01-01 --to 2025-06-30

      b3 export --verify --json | jq '.items[] | select(.action != "verified")'
    """
    from b3_pipeline.warehouse.exporting import claim

    chosen, within = tables_of(tables), window_of(first, last)
    with _exporting(into, show=not as_json) as exporting:
        if take_over:
            claim(exporting.place, exporting.home, take_over=True)
        some = exporting.verified(chosen, within) if verify else exporting.run(chosen, within, again=again)
        items = list(some)
    conclude(items, _WELL, as_json=as_json)


def conclude(items: Sequence[Item], well: Iterable[str], *, as_json: bool) -> None:
    """How a command with `items` ends: printed, and 1 when one is not well."""
    ok = all(item.action in set(well) for item in items)
    if as_json:
        emit({"ok": ok, "items": [item.document() for item in items]})
    else:
        show(items)
    if not ok:
        raise typer.Exit(1)


def show(items: Sequence[Item]) -> None:
    """Items for people: those that are as before are only counted."""
    told = [item for item in items if item.action not in ("unchanged", "verified")]
    if told:
        rows = ([i.table, i.name, i.rows, i.bytes or None, i.action, i.why] for i in told)
        table("", ["table", "partition", "rows", "bytes", "action", "remark"], rows, ("rows", "bytes"))
    counts: dict[str, int] = {}
    for item in items:
        counts[item.action] = counts.get(item.action, 0) + 1
    say(", ".join(f"{n} {action}" for action, n in counts.items()) + "." if counts else "Nothing to do.")


def tables_of(names: Sequence[str] | None) -> list[Table]:
    """The tables of these names; all where none is given. Raises UsageError."""
    from b3_pipeline.tables import TABLES

    if unknown := sorted({*(names or ())} - {*TABLES}):
        raise UsageError(f"There is no table {unknown[0]}: {', '.join(TABLES)}.")
    return [t for t in TABLES.values() if not names or t.name in names]


def window_of(first: datetime | None, last: datetime | None) -> Window:
    """The UTC days from one to another, both included. Raises UsageError."""
    from b3_pipeline.sessions import Window

    if first and last and last < first:
        raise UsageError("--to lies before --from.")
    return Window(first, last and last + timedelta(days=1))


@contextmanager
def _exporting(into: str | None, *, show: bool) -> Iterator[Exporting]:
    from b3_pipeline.home import require_disk
    from b3_pipeline.places import exports_of, place
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.questdb import schema
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings
    from b3_pipeline.warehouse import retention_log
    from b3_pipeline.warehouse.exporting import Exporting

    settings = Settings()
    require_disk(settings)
    where = place(into) if into else exports_of(settings)
    with (
        engines(settings, ConsoleReport(console) if show else SILENT) as servers,
        QuestDB(servers.questdb) as db,
        row_bar(show) as (describe, advance),
    ):
        schema.apply(db, settings.clock, lock=schema.lock_of(settings))
        taken = retention_log.known(servers.postgres_dsn, settings.home)
        yield Exporting(db, settings.home, where, settings.clock, taken, advance, describe)


@contextmanager
def row_bar(show: bool) -> Iterator[tuple[Any, Any]]:
    """A bar on standard error: a function that is told what goes on, and one that is told the rows since the last call."""
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("rows"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not show) as bar:
        task = bar.add_task("Looking", total=None)
        yield (
            lambda what: bar.update(task, description=escape(what)),
            lambda rows: bar.advance(task, rows),
        )
