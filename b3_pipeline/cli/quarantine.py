"""The commands on rejected records: b3 quarantine list, show, export, replay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.loading.load import LoadReport
    from b3_pipeline.loading.quarantine import Quarantine

quarantine_app = typer.Typer(
    no_args_is_help=True, help="Rejected records: kept with file, line, text and reason; corrected and replayed."
)


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    quarantine_app.command("list")(guarded(list_entries))
    for command in (show, export, replay):
        quarantine_app.command()(guarded(command))
    app.add_typer(quarantine_app, name="quarantine")


def list_entries(
    everything: Annotated[bool, typer.Option("--all", help="Those that were replayed, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the rejected records that nobody has corrected and replayed yet.

    Example:

      b3 quarantine list --json | jq 'group_by(.reason) | map({(.[0].reason): length}) | add'
    """
    quarantine = _quarantine()
    replayed = quarantine.replayed()
    entries = [e for e in quarantine.entries() if everything or e.key not in replayed]
    by = {"replayed_by": None} if everything else {}
    listed = [{**e.listed(), **{name: replayed.get(e.key) for name in by}} for e in entries]
    if as_json:
        emit(listed)
        return
    where = ((e, e["file"] if e["line"] is None else f"{e['file']}:{e['line']}") for e in listed)
    rows = ([e["id"], w, e["column"], e["reason"], *(str(e[name] or "") for name in by)] for e, w in where)
    table("Quarantine", ["id", "where", "column", "reason", *(["replayed by load"] if by else [])], rows)
    for reason, count in Counter(e.reason for e in entries).most_common():
        say(f"{count:>6,}  {reason}")
    say(
        f"{len(entries)} rejected records. [bold]b3 quarantine show ID[/] shows one whole, "
        "[bold]b3 quarantine export FILE[/] lets you correct them."
    )


def show(
    entry_id: Annotated[str, typer.Argument(help="The id in `b3 quarantine list`.", metavar="ID")],
    as_json: Json = False,
) -> None:
    """Show one rejected record with its raw text and the cell at fault."""
    from dataclasses import asdict

    quarantine = _quarantine()
    entry = quarantine.find(entry_id)
    if entry is None:
        raise UsageError(f"No rejected record has the id {entry_id}: see `b3 quarantine list`.")
    by = quarantine.replayed().get(entry.key)
    shown = {**asdict(entry), "replayed_by": by}
    if as_json:
        emit(shown)
    else:
        table(f"Rejected record {entry_id}", ["what", "value"], ((k, str(v or "")) for k, v in shown.items()))


def export(
    file: Annotated[Path, typer.Argument(help="Where to; it must not be there yet.", metavar="FILE.jsonl|.csv")],
    reason: Annotated[str | None, typer.Option("--reason", help="Only those of this reason.")] = None,
    table_name: Annotated[str | None, typer.Option("--table", help="Only those for this table.")] = None,
    source: Annotated[str | None, typer.Option("--file", help="Only those of this file.")] = None,
    as_json: Json = False,
) -> None:
    """Write rejected records to a file in which you correct them; then b3 quarantine replay loads it.

    Edit `corrected`, which is the line of a CSV (`header` names its fields) or a whole JSON document, and nothing
    else; take out what you cannot correct. Of a line only the records are loaded that were rejected.

    Examples:

      b3 quarantine export rejects.jsonl --reason bad_number

      b3 quarantine export rejects.csv --table b3_adjustments
    """
    from b3_pipeline.loading.replay import items, write_items

    quarantine = _quarantine()
    wanted = {"reason": reason, "table": table_name, "file": source}
    chosen = [e for e in quarantine.open_entries() if all(v is None or getattr(e, k) == v for k, v in wanted.items())]
    given, left_out = items(quarantine, chosen)
    write_items(file, given)
    records = sum(len(item.ids) for item in given)
    if as_json:
        left = [{"why": why, "records": count} for why, count in left_out.items()]
        emit({"ok": True, "path": file.absolute(), "items": len(given), "records": records, "left_out": left})
        return
    for why, count in left_out.items():
        say(f"[yellow]{count} not exported:[/] {escape(why)}.")
    name = escape(str(file))
    say(f"{records} rejected records in {len(given)} texts to correct: edit `corrected` in {name}, nothing else.")
    say(f"Then: [bold]b3 quarantine replay {name}[/]")


def replay(
    file: Annotated[Path, typer.Argument(help="The export, with your corrections.", metavar="FILE")],
    unedited: Annotated[
        bool,
        typer.Option("--unedited", help="Load texts, too, in which nothing was changed: they are right as they are."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Load corrected records, each under a load of its own; the counts of the loads that rejected them stay.

    Running it again changes nothing. What is still wrong is rejected again, under the new load. A corrected JSON
    document replaces the one that was received, in all of its tables. Exits with 1 when something was not read at all.

    Example:

      b3 quarantine replay rejects.jsonl
    """
    from b3_pipeline.loaders import loader_of
    from b3_pipeline.loading.replay import corrections, read_items, replay
    from b3_pipeline.postgres.flags import Flags
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    settings, given = Settings(), read_items(file)
    edited = [item for item in given if unedited or item.corrected != item.original]
    made = corrections(_quarantine(), edited)
    reports: list[LoadReport] = []
    if made:
        with engines(settings) as servers, QuestDB(servers.questdb) as db:
            loader = loader_of(settings, db, "b3 quarantine replay", Flags(settings.home, servers.postgres_dsn).current)
            reports = [report for correction in made for report in replay(loader, correction)]
    ok = all(report.outcome in ("loaded", "unchanged") for report in reports)
    if as_json:
        emit({"ok": ok, "loads": [_told(report) for report in reports], "unedited": len(given) - len(edited)})
    else:
        _show_replay([_told(report) for report in reports], len(given) - len(edited))
    if not ok:
        raise typer.Exit(1)


def _told(report: LoadReport) -> dict[str, Any]:
    load = report.load
    counts = {**load.counts, "revised": load.revised, "load_id": load.load_id, "table": load.table_name} if load else {}
    return {"file": report.payload.name, "outcome": report.outcome, "reason": report.reason, **counts}


def _show_replay(loads: list[dict[str, Any]], unedited: int) -> None:
    heads = ["file", "table", "outcome", "candidates", "loaded", "revised", "rejected", "duplicate", "absent"]
    table("Replayed", heads, ([load.get(head) for head in heads] for load in loads), heads[3:])
    for load in loads:
        if load["reason"]:
            say(f"[red]{escape(load['file'])}: {escape(load['reason'])}[/]")
    if unedited:
        say(f"{unedited} texts are as they were, and were left out: --unedited loads them, too.")
    if any(load.get("rejected") for load in loads):
        say("What is still wrong is in the quarantine again: [bold]b3 quarantine list[/].")


def _quarantine() -> Quarantine:
    from b3_pipeline.loading.quarantine import Quarantine
    from b3_pipeline.settings import Settings

    return Quarantine(Settings().home / "quarantine")
