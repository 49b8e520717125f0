"""The commands that move and show data: migrate, settlements, sample, quarantine, sql."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from b3_pipeline.cli.output import Json, emit, guarded, say, table
from b3_pipeline.errors import B3Error, UsageError

if TYPE_CHECKING:
    from b3_pipeline.loading.quarantine import Quarantine

quarantine_app = typer.Typer(no_args_is_help=True, help="Rejected records: kept with file, line, text and reason.")


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    for command in (migrate, settlements, sample, sql):
        app.command()(guarded(command))
    quarantine_app.command("list")(guarded(list_quarantine))
    quarantine_app.command("show")(guarded(show_quarantine))
    app.add_typer(quarantine_app, name="quarantine")


def migrate(
    legacy: Annotated[
        Path | None, typer.Option("--legacy", help="The legacy collectors' folder. Default: B3_LEGACY_DIR.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Rejected records, too, are a failure.")] = False,
    as_json: Json = False,
) -> None:
    """Load a legacy folder into QuestDB and account for every record.

    Running it again changes nothing: files that were loaded are `unchanged`. Rejected records go to quarantine.

    Examples:

      b3 migrate --legacy /srv/b3/data

      b3 migrate --legacy ./data --json | jq .tables
    """
    result = migrate_folder(legacy, show=not as_json)
    if strict and any(t["rejected"] for t in result["tables"].values()):
        result["ok"] = False
    if as_json:
        emit(result)
    else:
        _show_migration(result)
    if not result["ok"]:
        raise typer.Exit(1)


def migrate_folder(legacy: Path | None, *, show: bool = True) -> dict[str, Any]:
    """Runs the migration of a folder in a recorded Dagster run; returns the JSON of `b3 migrate`."""
    from b3_pipeline.loading.payloads import survey
    from b3_pipeline.settings import Settings
    from b3_pipeline.tables import REPORTED_TABLES

    folder = legacy or Settings().legacy_dir
    if folder is None:
        raise UsageError("Which folder? Give --legacy DIR, or set B3_LEGACY_DIR.")
    files = survey(folder)
    size = sum(p.size * len(p.kind.tables) for f in files if (p := f.loadable))
    with _Run(show, f"Loading {folder.name}", size) as run:
        run.store.account.files = files
        run.job("migrate", {"legacy_dir": str(folder.absolute())})
        return run.store.account.summary(REPORTED_TABLES, run.rows, run.seconds)


def settlements(
    file: Annotated[Path, typer.Argument(help="A price report of B3, SPRDyymmdd.zip.", metavar="FILE.zip")],
    as_json: Json = False,
) -> None:
    """Load one settlement report of B3 (BVBG.187) by hand.

    Example:

      b3 settlements SPRD260112.zip
    """
    from b3_pipeline.loading.payloads import payload
    from b3_pipeline.parsing.kinds import REPORT

    if not file.is_file():
        raise UsageError(f"{file} is no file: give a price report of B3, SPRDyymmdd.zip.")
    with _Run(not as_json, f"Loading {file.name}", payload(file, REPORT).size) as run:
        run.job("settlements", {"reports": [str(file.absolute())]})
        [report] = run.store.account.reports
        found = run.query(
            "select instrument, count(), max(trade_date) from b3_adjustments where load_id = %s order by 1",
            report.load.load_id,
        )
    result = {
        "ok": report.outcome != "rejected",
        "trade_date": max(day for *_, day in found).date() if found else None,
        "loaded": report.load.loaded,
        "rejected": report.load.rejected,
        "instruments": {instrument: count for instrument, count, _ in found},
    }
    if as_json:
        emit(result if report.reason is None else {**result, "reason": report.reason})
    elif report.reason:
        say(f"[red]{file.name} was rejected: {report.reason}[/]")
    else:
        title = f"Settlements of {result['trade_date']} ({report.outcome})"
        table(title, ["instrument", "loaded"], result["instruments"].items(), ["loaded"])
        say(f"{result['loaded']} loaded, {result['rejected']} rejected.")
    if not result["ok"]:
        raise typer.Exit(1)


def sample(
    folder: Annotated[Path, typer.Argument(help="Where to make it; the folder must not be there yet, or be empty.")],
    sessions: Annotated[int, typer.Option(min=1, max=5_000, help="How many trading sessions.")] = 60,
    as_json: Json = False,
) -> None:
    """Make a small legacy folder of synthetic data, ending at the last session before now.

    Example:

      b3 sample ./sample && b3 migrate --legacy ./sample
    """
    from b3_pipeline.sample import make_sample
    from b3_pipeline.settings import Settings

    files = make_sample(folder, Settings().clock(), sessions)
    if as_json:
        emit({"ok": True, "folder": folder.absolute(), "files": [f.relative_to(folder).as_posix() for f in files]})
    else:
        say(f"{len(files)} files of synthetic data in {folder}. Next: [bold]b3 migrate --legacy {folder}[/]")


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT.")],
    as_json: Json = False,
) -> None:
    """Ask QuestDB something, with the read-only user.

    Example:

      b3 sql "SELECT * FROM b3_loads ORDER BY ts DESC LIMIT 5"
    """
    from b3_pipeline.questdb.reader import read
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    with engines(Settings()) as servers:
        columns, rows = read(servers.questdb, query)
    if as_json:
        emit([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        table("", columns, rows)
        say(f"{len(rows)} rows.")


def list_quarantine(as_json: Json = False) -> None:
    """List every rejected record.

    Example:

      b3 quarantine list --json | jq 'group_by(.reason) | map({(.[0].reason): length}) | add'
    """
    entries = [entry.listed() for entry in _quarantine().entries()]
    if as_json:
        emit(entries)
        return
    columns = ["id", "table", "file", "line", "column", "reason", "text"]
    table("Quarantine", columns, ([e[c] for c in columns] for e in entries))
    for reason, count in Counter(e["reason"] for e in entries).most_common():
        say(f"{count:>6,}  {reason}")
    say(f"{len(entries)} rejected records. [bold]b3 quarantine show ID[/] shows one whole.")


def show_quarantine(
    entry_id: Annotated[str, typer.Argument(help="The id in `b3 quarantine list`.", metavar="ID")],
    as_json: Json = False,
) -> None:
    """Show one rejected record with its raw text and the cell at fault."""
    from dataclasses import asdict

    entry = _quarantine().find(entry_id)
    if entry is None:
        raise UsageError(f"No rejected record has the id {entry_id}: see `b3 quarantine list`.")
    if as_json:
        emit(asdict(entry))
    else:
        table(f"Rejected record {entry_id}", ["what", "value"], asdict(entry).items())


def _quarantine() -> Quarantine:
    from b3_pipeline.loading.quarantine import Quarantine
    from b3_pipeline.settings import Settings

    return Quarantine(Settings().home / "quarantine")


class _Run:
    """One command's Dagster run: servers, instance, progress bar and the account of what was loaded."""

    def __init__(self, show: bool, title: str, size: int) -> None:
        self.show, self.title, self.size = show, title, size
        self.seconds = 0.0
        self.failed: list[str] = []

    def __enter__(self) -> _Run:
        from contextlib import ExitStack

        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        from b3_pipeline.cli.output import console
        from b3_pipeline.defs.resources import Store
        from b3_pipeline.progress import SILENT, ConsoleReport
        from b3_pipeline.questdb import schema
        from b3_pipeline.questdb.client import QuestDB
        from b3_pipeline.services import engines

        with ExitStack() as stack:
            self.store = Store(self._advance)
            self.servers = stack.enter_context(
                engines(self.store.settings, ConsoleReport(console) if self.show else SILENT)
            )
            self.db = self.store.db = stack.enter_context(QuestDB(self.servers.questdb))
            schema.apply(self.db, self.store.settings.clock)
            if drift := {t: d["server"] for t, d in schema.diff(self.db).items() if d["server"]}:
                raise schema.SchemaError(
                    "Nothing was loaded, for tables are not as contracted: "
                    + "; ".join(f"{t}: {', '.join(lines)}" for t, lines in drift.items())
                    + ". See `b3 schema diff`."
                )
            bar = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self.progress = stack.enter_context(Progress(*bar, console=console, disable=not self.show))
            self.task = self.progress.add_task(self.title, total=self.size)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _advance(self, done: int) -> None:
        self.progress.advance(self.task, done)

    def rows(self, name: str) -> int:
        from b3_pipeline.questdb.client import named

        return self.db.scalar(named("select count() from {t}", t=name))

    def query(self, query: Any, *values: object) -> list[tuple[Any, ...]]:
        return self.db.query(query, *values)

    def job(self, name: str, inputs: dict[str, Any]) -> None:
        """Runs a job of ours in this process, recorded in the home's Dagster instance; raises B3Error when it fails."""
        from b3_pipeline.defs.running import run_job

        started = time.monotonic()
        if failures := run_job(name, inputs, self.store, self.servers):
            raise B3Error("; ".join(failures))
        self.seconds = time.monotonic() - started


def _show_migration(result: dict[str, Any]) -> None:
    heads = {
        "candidates": "records",
        "loaded": "loaded",
        "revised": "revised",
        "rejected": "rejected",
        "duplicate": "dup.",
        "absent": "absent",
        "rows_in_table": "rows",
    }
    table(
        "Records = loaded + rejected + duplicate + absent; rows: in the table",
        ["table", *heads.values()],
        ([name, *(t[c] for c in heads)] for name, t in result["tables"].items()),
        list(heads.values()),
    )
    table("Files", ["file", "outcome", "reason"], ([f["name"], f["outcome"], f["reason"]] for f in result["files"]))
    say(f"{result['seconds']:.1f} s, {result['rows_per_second']:,.0f} records/s.")
    if any(t["rejected"] for t in result["tables"].values()):
        say("Rejected records are kept: [bold]b3 quarantine list[/].")
