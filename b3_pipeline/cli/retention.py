"""The commands on retention: b3 retention, with rules, enable, disable, hold, release, holds, log, restore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from b3_pipeline.cli.exports import From, To, conclude, row_bar, tables_of, window_of
from b3_pipeline.cli.output import Json, console, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.settings import Settings
    from b3_pipeline.warehouse.retention import Retention
    from b3_pipeline.warehouse.retention_log import Hold, RetentionLog

retention_app = typer.Typer(invoke_without_command=True)
TableName = Annotated[str, typer.Argument(help="The table.", metavar="TABLE")]
Why = Annotated[str, typer.Option("--why", help="The reason, for those who read it later.")]
#: What came of a partition where nothing went wrong.
_WELL = ("dropped", "would be dropped", "kept", "restored")


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    retention_app.callback()(guarded(run))
    for command in (rules, enable, disable, hold, release, holds, log, restore):
        retention_app.command(command.__name__)(guarded(command))
    app.add_typer(retention_app, name="retention")


def run(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go, and what would not, and why.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take old partitions out of QuestDB, once each of them is safely elsewhere.

    A partition goes when it lies wholly beyond its table's limit, is not the newest, no hold covers any of it, its export
    was verified just now, and the warehouse has loaded it where it is to have it. The export is made here if need be.
    Running it again finishes what was interrupted. `b3 retention restore` brings a partition back.

    Examples:

      b3 retention --dry-run

      b3 retention --json | jq '.items[] | {table, name, rows, action, why}'
    """
    if context.invoked_subcommand is not None:
        return
    with _opened(show=not as_json) as retention:
        items = list(retention.look() if dry_run else retention.run())
    conclude(items, _WELL, as_json=as_json)


def rules(as_json: Json = False) -> None:
    """List the tables that have a limit, and whether it is kept.

    Example:

      b3 retention rules
    """
    from b3_pipeline.warehouse.retention import is_on, limited

    with _log() as (book, _settings):
        standing = book.rules()
    found = [
        {"table": t.name, "days": t.retention_days, "enabled": is_on(t, standing)}
        | {name: getattr(standing.get(t.name), name, None) for name in ("at", "who", "why")}
        for t in limited()
    ]
    if as_json:
        emit(found)
        return
    rows = ([r["table"], r["days"], "on" if r["enabled"] else "off", r["who"] or "(default)", r["why"]] for r in found)
    table("Retention", ["table", "days", "is", "who", "why"], rows, ("days",))


def enable(name: TableName, why: Why, as_json: Json = False) -> None:
    """Let a table's old partitions go from now on.

    Example:

      b3 retention enable b3_captures --why "the documents are in the exports"
    """
    _set_rule(name, why, enabled=True, as_json=as_json)


def disable(name: TableName, why: Why, as_json: Json = False) -> None:
    """Keep all of a table from now on.

    Example:

      b3 retention disable tp_capital_signals --why "the desk compares last quarter"
    """
    _set_rule(name, why, enabled=False, as_json=as_json)


def _set_rule(name: str, why: str, *, enabled: bool, as_json: bool) -> None:
    from b3_pipeline.postgres.flags import user
    from b3_pipeline.warehouse.retention_log import Rule

    [chosen] = tables_of([name])
    if chosen.retention_days is None:
        raise UsageError(f"{name} has no limit: all of it is kept for ever.")
    reason = _reason(why)
    with _log() as (book, settings):
        rule = Rule(name, enabled, settings.clock(), user(), reason)
        book.set_rule(rule)
    if as_json:
        emit({"ok": True, **asdict(rule), "days": chosen.retention_days})
    else:
        goes = f"goes after {chosen.retention_days} days" if enabled else "is all kept"
        say(f"{name} {goes} from now on.")


def hold(name: TableName, why: Why, first: From = None, last: To = None, as_json: Json = False) -> None:
    """Keep some days of a table (UTC; without --from and --to all of it), whatever their age, until the hold is released.

    Example:

      b3 retention hold tp_capital_signals --from 2025-09-01 --to 2025-09-30 --why "question of the regulator"
    """
    from b3_pipeline.postgres.flags import user

    tables_of([name])
    window, reason = window_of(first, last), _reason(why)
    with _log() as (book, settings):
        standing = book.hold(name, window, user(), reason, settings.clock())
        gone = [e for e in book.standing() if e.table_name == name and standing.covers(e.window)]
    if as_json:
        emit({"ok": True, **_held(standing), "taken_away_before": [entry.partition for entry in gone]})
        return
    say(f"Hold {standing.id} is on. `b3 retention release {standing.id}` takes it off.")
    if gone:
        say(
            f"Taken away before: {', '.join(e.partition for e in gone)}. `b3 retention restore {name} PARTITION` brings it back."
        )


def release(
    number: Annotated[int, typer.Argument(help="The hold's number: see `b3 retention holds`.", metavar="HOLD")],
    why: Annotated[str, typer.Option("--why", help="Why it may go.")] = "",
    as_json: Json = False,
) -> None:
    """Take a hold off: what it covered goes with the next run, if it is old enough.

    Example:

      b3 retention release 3 --why "question answered"
    """
    from b3_pipeline.postgres.flags import user

    with _log() as (book, settings):
        if not book.release(number, user(), why.strip(), settings.clock()):
            raise UsageError(f"There is no hold {number}: `b3 retention holds` lists those that stand.")
    if as_json:
        emit({"ok": True, "id": number})
    else:
        say(f"Hold {number} is off.")


def holds(as_json: Json = False) -> None:
    """List the holds that stand.

    Example:

      b3 retention holds --json
    """
    with _log() as (book, _settings):
        found = [_held(each) for each in book.holds()]
    if as_json:
        emit(found)
        return
    rows = ([h["id"], h["table"], h["from"] or "…", h["to"] or "…", h["who"], h["why"]] for h in found)
    table("Holds", ["hold", "table", "from (UTC)", "until", "who", "why"], rows)


def _held(each: Hold) -> dict[str, Any]:
    """A hold for JSON: `to` is the first moment that it does not cover."""
    about = {"id": each.id, "table": each.table_name, "from": each.window.start, "to": each.window.end}
    return {**about, "who": each.who, "why": each.why, "at": each.at}


def log(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    as_json: Json = False,
) -> None:
    """List what was ever taken away, and what came back, newest first.

    Example:

      b3 retention log --json | jq '.[] | select(.state == "dropped") | {table_name, partition, rows}'
    """
    with _log() as (book, _settings):
        entries = book.entries(limit)
    if as_json:
        emit([asdict(entry) | {"state": entry.state} for entry in entries])
        return
    rows = (
        [f"{e.intended_at:%Y-%m-%d %H:%M:%S}", e.table_name, e.partition, e.rows, e.state, e.who, e.restored_why]
        for e in entries
    )
    heads = ["when (UTC)", "table", "partition", "rows", "state", "who", "restored for"]
    table("Retention log", heads, rows, ("rows",))


def restore(
    name: TableName,
    partition: Annotated[str, typer.Argument(help="As the log names it: 2025-10 or 2025-10-14.", metavar="PARTITION")],
    why: Why,
    as_json: Json = False,
) -> None:
    """Bring a partition back out of its export, row for row, and put a hold on it, or the next run would take it again.

    The export is verified first: a damaged one is never restored. Rows that the export has not are never overwritten.
    With signals their tombstones come back. Running it again finishes what was interrupted.

    Example:

      b3 retention restore tp_capital_signals 2025-09-13 --why "question of the regulator"
    """
    [chosen], reason = tables_of([name]), _reason(why)
    with _opened(show=not as_json) as retention:
        items = retention.restore(chosen, partition, reason)
        kept = [h.id for h in retention.log.holds() if any(h.table_name == i.table for i in items)]
    conclude(items, _WELL, as_json=as_json)
    if not as_json:
        say(f"A hold keeps it ({', '.join(map(str, kept))}): `b3 retention release` lets it go again.")


def _reason(why: str) -> str:
    from b3_pipeline.parsing.records import has_controls
    from b3_pipeline.postgres.flags import LONGEST_TEXT

    reason = why.strip()
    if not reason or len(reason) > LONGEST_TEXT or has_controls(reason):
        raise UsageError(f'Say why in one line of at most {LONGEST_TEXT} characters: --why "…".')
    return reason


@contextmanager
def _log() -> Iterator[tuple[RetentionLog, Settings]]:
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings
    from b3_pipeline.warehouse.retention_log import open_retention_log

    settings = Settings()
    with engines(settings) as servers, open_retention_log(servers.postgres_dsn) as book:
        yield book, settings


@contextmanager
def _opened(*, show: bool) -> Iterator[Retention]:
    from b3_pipeline.home import require_disk
    from b3_pipeline.postgres.flags import user
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.questdb import schema
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings
    from b3_pipeline.warehouse.retention import retention_of
    from b3_pipeline.warehouse.retention_log import open_retention_log

    settings = Settings()
    require_disk(settings)
    with (
        engines(settings, ConsoleReport(console) if show else SILENT) as servers,
        QuestDB(servers.questdb) as db,
        open_retention_log(servers.postgres_dsn) as book,
        row_bar(show) as (describe, advance),
    ):
        schema.apply(db, settings.clock, lock=schema.lock_of(settings))
        more = {"progress": advance, "announce": describe}
        yield retention_of(settings, db, servers.postgres_dsn, book, user(), **more)
