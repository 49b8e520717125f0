"""The commands that move and show data: migrate, settlements, sample, quarantine, sql."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, emit, guarded, say, table
from b3_pipeline.errors import B3Error, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b3_pipeline.loading.load import LoadReport
    from b3_pipeline.loading.payloads import Found, Payload
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
        show_migration(result)
    if not result["ok"]:
        raise typer.Exit(1)


def migrate_folder(legacy: Path | None, *, show: bool = True) -> dict[str, Any]:
    """Runs the migration of a folder in a recorded Dagster run; returns the JSON of `b3 migrate`."""
    from b3_pipeline.loading.payloads import survey
    from b3_pipeline.parsing.kinds import LEGACY_KINDS
    from b3_pipeline.settings import Settings
    from b3_pipeline.tables import REPORTED_TABLES

    folder = legacy or Settings().legacy_dir
    if folder is None:
        raise UsageError("Which folder? Give --legacy DIR, or set B3_LEGACY_DIR.")
    files = survey(folder)
    if all(f.outcome in ("missing", "ignored") for f in files):
        raise UsageError(f"{folder} holds none of the legacy files ({', '.join(k.file for k in LEGACY_KINDS)}).")
    size = sum(p.size * len(p.kind.tables) for f in files if (p := f.loadable))
    with _Run(show, f"Loading {folder.name}", size, files) as run:
        failures = run.job("migrate", {"legacy_dir": str(folder.absolute())})
        result = run.store.account.summary(REPORTED_TABLES, run.rows, run.seconds)
    return {**result, "ok": False, "errors": failures} if failures else result


def settlements(
    file: Annotated[Path, typer.Argument(help="A price report of B3, SPRDyymmdd.zip.", metavar="FILE.zip")],
    as_json: Json = False,
) -> None:
    """Load one settlement report of B3 (BVBG.187) by hand.

    Example:

      b3 settlements SPRD260112.zip
    """
    from b3_pipeline.loading.payloads import Found, payload
    from b3_pipeline.parsing.kinds import REPORT

    if not file.is_file():
        raise UsageError(f"{file} is no file: give a price report of B3, SPRDyymmdd.zip.")
    content = payload(file, REPORT)
    with _Run(not as_json, f"Loading {file.name}", content.size, [Found(file.name, REPORT, content)]) as run:
        failures = run.job("settlements", {"reports": [str(file.absolute())]})
        if not run.store.account.reports:
            raise B3Error("; ".join(failures))
    [report] = run.store.account.reports
    result = {"ok": report.outcome in ("loaded", "unchanged"), **_settled(content, report)}
    if as_json:
        emit(result if report.reason is None else {**result, "reason": report.reason})
    elif report.reason:
        say(f"[red]{escape(file.name)} was {report.outcome}: {escape(report.reason)}[/]")
    else:
        title = f"Settlements of {result['trade_date']} ({report.outcome})"
        table(title, ["instrument", "settlements"], result["instruments"].items(), ["settlements"])
        say(f"{result['loaded']} loaded, {result['rejected']} rejected.")
    if not result["ok"]:
        raise typer.Exit(1)


def _settled(content: Payload, report: LoadReport) -> dict[str, Any]:
    """What a report holds, whichever load brought its rows: `b3 settlements --json` without `ok`."""
    from b3_pipeline.tables import TABLES

    held = content.kind.parse(content.open(), TABLES["b3_adjustments"]).chunks if report.outcome != "rejected" else ()
    records = [row for chunk in held for row in chunk.records.select(["trade_date", "instrument"]).to_pylist()]
    return {
        "trade_date": max((row["trade_date"] for row in records), default=None),
        "loaded": report.load.loaded if report.load else 0,
        "rejected": report.load.rejected if report.load else 0,
        "instruments": dict(sorted(Counter(row["instrument"] for row in records).items())),
    }


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
        say(
            f"{len(files)} files of synthetic data in {escape(str(folder))}. Next: [bold]b3 migrate --legacy {escape(str(folder))}[/]"
        )


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT.")],
    as_json: Json = False,
) -> None:
    """Ask QuestDB something, with the read-only user.

    Example:

      b3 sql "SELECT file, table_name, loaded, rejected FROM b3_loads ORDER BY ts DESC LIMIT 5"
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
        say(f"{len(rows)} row{'' if len(rows) == 1 else 's'}.")


def list_quarantine(as_json: Json = False) -> None:
    """List every rejected record.

    Example:

      b3 quarantine list --json | jq 'group_by(.reason) | map({(.[0].reason): length}) | add'
    """
    entries = [entry.listed() for entry in _quarantine().entries()]
    if as_json:
        emit(entries)
        return
    where = ((e, e["file"] if e["line"] is None else f"{e['file']}:{e['line']}") for e in entries)
    table("Quarantine", ["id", "where", "column", "reason"], ([e["id"], w, e["column"], e["reason"]] for e, w in where))
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

    def __init__(self, show: bool, title: str, size: int, files: Sequence[Found]) -> None:
        self.show, self.title, self.size, self.files = show, title, size, files
        self.seconds = 0.0

    def __enter__(self) -> _Run:
        from contextlib import ExitStack

        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        from b3_pipeline.cli.output import console
        from b3_pipeline.defs.resources import Store
        from b3_pipeline.home import require_disk
        from b3_pipeline.progress import SILENT, ConsoleReport
        from b3_pipeline.questdb import schema
        from b3_pipeline.questdb.client import QuestDB
        from b3_pipeline.services import engines

        with ExitStack() as stack:
            self.store = Store(self._advance, self.files)
            require_disk(self.store.settings)
            self.servers = stack.enter_context(
                engines(self.store.settings, ConsoleReport(console) if self.show else SILENT)
            )
            self.db = self.store.db = stack.enter_context(QuestDB(self.servers.questdb))
            schema.apply(self.db, self.store.settings.clock)
            if drift := {t: d["server"] for t, d in schema.diff(self.db).items() if d["server"]}:
                raise schema.SchemaError(
                    "Nothing was loaded, for tables are not as contracted: "
                    + "; ".join(f"{t}: {', '.join(lines)}" for t, lines in drift.items())
                    + ". `b3 schema apply` makes missing tables; `b3 schema diff` says what else to do."
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

    def job(self, name: str, inputs: dict[str, Any]) -> list[str]:
        """Runs a job of ours in this process, recorded in the home's Dagster instance; returns what failed."""
        from b3_pipeline.defs.running import run_job

        started = time.monotonic()
        failures = run_job(name, inputs, self.store, self.servers)
        self.seconds = time.monotonic() - started
        return failures


def show_migration(result: dict[str, Any]) -> None:
    """The report of `migrate_folder` for people."""
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
    for failure in result.get("errors", ()):
        say(f"[bold red]Error:[/] {escape(failure)}")
    if any(t["rejected"] for t in result["tables"].values()):
        say("Rejected records are kept: [bold]b3 quarantine list[/].")
