"""The commands on the warehouse in PostgreSQL: b3 warehouse load, status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, console, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.services import Engines
    from b3_pipeline.settings import Settings
    from b3_pipeline.tables import Table
    from b3_pipeline.warehouse.loading import Loading, Outcome

warehouse_app = typer.Typer(
    no_args_is_help=True, help="The warehouse in PostgreSQL: loaded from the exports, asked by SQL."
)
OfTables = Annotated[list[str] | None, typer.Option("--table", help="Only this table; may be given more than once.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    warehouse_app.command("load")(guarded(load))
    warehouse_app.command("status")(guarded(status))
    app.add_typer(warehouse_app, name="warehouse")


def load(of_tables: OfTables = None, as_json: Json = False) -> None:
    """Load the exports that are new or changed, and the newest partition of each table, into PostgreSQL.

    Brings the schema `warehouse` to this release's version first. A damaged export is named and not loaded, the others
    are. Running it again changes nothing. Exits with 1 when an export is damaged.

    Examples:

      b3 warehouse load

      b3 warehouse load --table tp_capital_signals --json | jq '.items[] | select(.action != "unchanged")'
    """
    from b3_pipeline.home import require_disk

    tables = _chosen(of_tables)
    with _opened(show=not as_json) as (settings, servers):
        require_disk(settings)
        outcomes, exports = _load(settings, servers, tables, show=not as_json)
    ok = all(outcome.action != "damaged" for outcome in outcomes)
    if as_json:
        emit({"ok": ok, "items": [outcome.document(exports) for outcome in outcomes]})
    else:
        _show_load(outcomes)
    if not ok:
        raise typer.Exit(1)


def _load(settings: Settings, servers: Engines, tables: list[Table], *, show: bool) -> tuple[list[Outcome], Any]:
    from b3_pipeline.places import exports_of
    from b3_pipeline.questdb import schema
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.warehouse.loading import SPOOL, Loading, prepare

    exports = exports_of(settings)
    prepare(servers.postgres_dsn, settings.home, settings.clock)
    with QuestDB(servers.questdb) as db:
        schema.apply(db, settings.clock, lock=schema.lock_of(settings))
        loading = Loading(servers.postgres_dsn, db, exports, settings.home / SPOOL, settings.clock, tables)
        return _run(loading, show=show), exports


def _run(loading: Loading, *, show: bool) -> list[Outcome]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar, console=console, disable=not show) as progress:
        task = progress.add_task("Loading the warehouse", total=loading.rows)
        return list(loading.run(lambda rows: progress.advance(task, rows)))


def _show_load(outcomes: list[Outcome]) -> None:
    tables: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        tables.setdefault(outcome.table, []).append(outcome)
    heads = ["table", "partitions", "loaded", "unchanged", "damaged", "rows loaded"]
    table(
        "The warehouse",
        heads,
        (
            [
                name,
                len(each),
                *(sum(o.action == action for o in each) for action in ("loaded", "unchanged", "damaged")),
                sum(o.rows for o in each if o.action == "loaded"),
            ]
            for name, each in tables.items()
        ),
        heads[1:],
    )
    for outcome in outcomes:
        if outcome.action == "damaged":
            say(f"[bold red]Damaged:[/] {escape(f'{outcome.table} {outcome.partition}: {outcome.reason}')}")


def status(as_json: Json = False) -> None:
    """Show what the warehouse has of each table, when it was loaded, and which exports it has not.

    Exits with 1 when the schema or an export is not there yet, or not as it is now: `b3 warehouse load` brings it.

    Example:

      b3 warehouse status --json | jq .items
    """
    from b3_pipeline.places import exports_of
    from b3_pipeline.warehouse.exports import manifests
    from b3_pipeline.warehouse.loaded import standing
    from b3_pipeline.warehouse.loading import head, schema_version, warehouse

    with _opened(show=not as_json) as (settings, servers):
        exports = exports_of(settings)
        with warehouse(servers.postgres_dsn) as db:
            version = schema_version(db)
            found = [standing(db, each, manifests(exports, each)) for each in _chosen(None)]
    ok = version == head() and not any(each.behind for each in found)
    if as_json:
        emit({"ok": ok, "schema": version, "release": head(), "items": [each.document() for each in found]})
    else:
        heads = ["table", "rows", "newest", "loaded (UTC)", "not loaded"]
        rows = ([e.table, e.rows, e.newest, _at(e.loaded_at), len(e.behind)] for e in found)
        table(f"The warehouse, schema {version or 'none'} of {head()}", heads, rows, heads[1:])
        if not ok:
            say("[bold]b3 warehouse load[/] brings it up to date.")
    if not ok:
        raise typer.Exit(1)


def _at(moment: Any) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _chosen(names: list[str] | None) -> list[Table]:
    from b3_pipeline.warehouse.model import WAREHOUSE_TABLES

    tables = {each.name: each for each in WAREHOUSE_TABLES}
    if unknown := next((name for name in names or () if name not in tables), None):
        raise UsageError(f"{unknown} is no table of the warehouse: {', '.join(tables)}.")
    return [each for name, each in tables.items() if not names or name in names]


@contextmanager
def _opened(*, show: bool) -> Iterator[tuple[Settings, Engines]]:
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    settings = Settings()
    with engines(settings, ConsoleReport(console) if show else SILENT) as servers:
        yield settings, servers
