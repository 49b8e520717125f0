"""A command that loads files: servers, schema, progress bar, the recorded Dagster run, and its account for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import emit, say, table

if TYPE_CHECKING:
    from b3_pipeline.loading.payloads import Found
    from b3_pipeline.services import Engines


class Run:
    """One command's Dagster run; `find` gives the files that it is about, once the servers are up."""

    def __init__(self, show: bool, title: str, find: Callable[[Engines], Sequence[Found]]) -> None:
        self.show, self.title, self.find = show, title, find
        self.seconds = 0.0

    def __enter__(self) -> Run:
        from contextlib import ExitStack

        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        from b3_pipeline.cli.output import console
        from b3_pipeline.defs.resources import Store
        from b3_pipeline.home import require_disk
        from b3_pipeline.progress import SILENT, ConsoleReport
        from b3_pipeline.questdb import schema
        from b3_pipeline.questdb.client import QuestDB
        from b3_pipeline.services import engines
        from b3_pipeline.settings import Settings
        from b3_pipeline.tables import TABLES

        settings = Settings()
        with ExitStack() as stack:
            require_disk(settings)
            self.servers = stack.enter_context(engines(settings, ConsoleReport(console) if self.show else SILENT))
            self.store = Store(self._advance, self.find(self.servers))
            self.db = self.store.db = stack.enter_context(QuestDB(self.servers.questdb))
            schema.apply(self.db, settings.clock, lock=schema.lock_of(settings))
            if drift := {t: d["server"] for t, d in schema.diff(self.db).items() if d["server"] and t in TABLES}:
                raise schema.SchemaError(
                    "Nothing was loaded, for tables are not as contracted: "
                    + "; ".join(f"{t}: {', '.join(lines)}" for t, lines in drift.items())
                    + ". `b3 schema apply` makes missing tables; `b3 schema diff` says what else to do."
                )
            bar = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self.progress = stack.enter_context(Progress(*bar, console=console, disable=not self.show))
            files = self.store.account.files
            size = sum(p.size * len(p.kind.tables) for f in files if (p := f.loadable))
            self.task = self.progress.add_task(escape(self.title), total=size)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _advance(self, done: int) -> None:
        self.progress.advance(self.task, done)

    def rows(self, name: str) -> int:
        from b3_pipeline.questdb.client import named

        return self.db.scalar(named("select count() from {t}", t=name))

    def job(self, name: str, inputs: dict[str, Any], sessions: tuple[str, str] | None = None) -> list[str]:
        """Runs a job of ours in this process, recorded in the home's Dagster instance; returns what failed.

        It is about everything, or about the partitions from one session to another.
        """
        from b3_pipeline.defs.running import run_job

        started = time.monotonic()
        failures = run_job(name, inputs, self.store, self.servers, sessions)
        self.seconds = time.monotonic() - started
        return failures

    def load(
        self, name: str, inputs: dict[str, Any], tables: Iterable[str], sessions: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        """Runs a job that loads into `tables` (see `job` for `sessions`); returns the JSON of `b3 migrate`."""
        failures = self.job(name, inputs, sessions)
        result = self.store.account.summary(tables, self.rows, self.seconds)
        return {**result, "ok": False, "errors": failures} if failures else result


def conclude(result: dict[str, Any], *, strict: bool, as_json: bool) -> None:
    """How a command that loads ends: what `Run.load` returned, printed, and the exit code. `strict`: no reject may be."""
    if strict and any(t["rejected"] for t in result["tables"].values()):
        result["ok"] = False
    if as_json:
        emit(result)
    else:
        show_account(result)
    if not result["ok"]:
        raise typer.Exit(1)


def show_account(result: dict[str, Any]) -> None:
    """What `Run.load` returned, for people."""
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
