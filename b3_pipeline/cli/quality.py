"""The command that proves what is stored: b3 validate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, console, emit, guarded, say, table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from b3_pipeline.loading.load import Loader
    from b3_pipeline.quality.checks import Check
    from b3_pipeline.quality.finding import Context, Finding
    from b3_pipeline.quality.validate import Report
    from b3_pipeline.tables import Table


#: The numbers of parity as people see them; those that are not always shown are left out where all are 0.
_HEADS = {
    "source_keys": "source",
    "table_keys": "stored",
    "missing": "missing",
    "extra": "extra",
    "different": "other",
    "rejected": "rejected",
    "expired": "expired",
}
_ALWAYS_SHOWN = ("source_keys", "table_keys", "missing", "extra", "different")


def register(app: typer.Typer) -> None:
    """Adds this command to `b3`."""
    app.command()(guarded(validate))


def validate(
    legacy: Annotated[
        Path | None, typer.Option("--legacy", help="The legacy collectors' folder. Default: B3_LEGACY_DIR.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Load again what is gone or changed, take out what no source has.")
    ] = False,
    tolerance: Annotated[int, typer.Option(min=0, help="Keys of a table and feed that parity forgives.")] = 0,
    as_json: Json = False,
) -> None:
    """Prove that what is stored equals its sources, and run every other check.

    Sources are the legacy folder, the settlement reports kept in the home, and the documents of past captures. The
    report is kept in the home: the page /paridade and the gates of `b3 cutover` read the last one. One that forgives keys,
    or is of another folder than B3_LEGACY_DIR, is only shown.

    Examples:

      b3 validate --legacy /srv/b3/data

      b3 validate --legacy /srv/b3/data --repair
    """
    from b3_pipeline.quality import parity_report

    with _proving(legacy, tolerance, show=not as_json) as proving:
        repaired = proving.repair() if repair else []
        report = proving.validate()
        report.repaired = repaired
        if proving.stands:
            parity_report.keep(proving.context.home, report.document(), proving.context.now)
        else:
            say("This report is not kept: it forgives keys, or is of another folder than B3_LEGACY_DIR.")
    if as_json:
        emit(report.document())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Proving:
    """Servers, sources and the progress bar of one command; `stands`: what comes of it is a report of the home."""

    context: Context
    loader: Loader
    bar: Progress
    task: TaskID
    stands: bool

    def validate(self) -> Report:
        from b3_pipeline.quality.validate import validate as run
        from b3_pipeline.quality.validate import work

        self.bar.reset(self.task, total=work(self.context) or None, description="Checking")
        return run(self.context, lambda check: self._describe(f"{check.table.name}: {check.name}"))

    def repair(self) -> list[dict[str, Any]]:
        from b3_pipeline.quality.repair import Repair

        return Repair(self.context, self.loader, lambda t: self._describe(f"Repairing {t.name}")).run()

    def _describe(self, what: str) -> None:
        self.bar.update(self.task, description=what)


@contextmanager
def _proving(legacy: Path | None, tolerance: int, *, show: bool) -> Iterator[_Proving]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from b3_pipeline.home import require_disk
    from b3_pipeline.loaders import loader_of
    from b3_pipeline.postgres.flags import Flags
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.quality import parity_report
    from b3_pipeline.quality.of_home import context_of
    from b3_pipeline.quality.sources import at_hand
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    settings = Settings()
    require_disk(settings)
    folder = legacy or settings.legacy_dir
    files = at_hand(folder, settings.home)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console, disable=not show)
    with (
        engines(settings, ConsoleReport(console) if show else SILENT) as servers,
        QuestDB(servers.questdb) as db,
        bar,
    ):
        task = bar.add_task("Checking", total=None)
        flags = Flags(settings.home, servers.postgres_dsn)
        context = context_of(settings, db, files, servers.postgres_dsn, flags.current())
        context = replace(context, tolerance=tolerance, progress=lambda done: bar.advance(task, done))
        more = {"progress": context.progress, "again": True}
        loader = loader_of(settings, db, "b3 validate --repair", flags.current, **more)
        yield _Proving(context, loader, bar, task, parity_report.stands(folder, settings.legacy_dir, tolerance))


def _show(report: Report) -> None:
    """The report for people: parity, repairs, then what did not pass, worst first."""
    rows = [(t, feed, numbers) for t, feeds in report.tables.items() for feed, numbers in feeds.items()]
    heads = [name for name in _HEADS if name in _ALWAYS_SHOWN or any(numbers[name] for _t, _f, numbers in rows)]
    table(
        "Parity: each source, read again, against its rows",
        ["table", "feed", *(_HEADS[name] for name in heads)],
        ([t, feed, *(numbers[name] for name in heads)] for t, feed, numbers in rows),
        [_HEADS[name] for name in heads],
    )
    compared, different = report.payloads["compared"], report.payloads["different"]
    say(f"{compared} documents rebuilt from the tables, {different} of them differ.")
    if report.repaired:
        shown = ([a["table"], a["action"], _about(a), a.get("reason", "")] for a in report.repaired)
        table("Repairs", ["table", "action", "what", "remark"], shown)
    for severity, colour in (("ERROR", "red"), ("WARN", "yellow")):
        for check, finding in report.failed(severity):
            say(f"[bold {colour}]{severity}[/] {check.table.name}, {check.name}: {escape(_numbers(finding))}")
            _show_rows(check, finding)
            say(f"  {escape(finding.advice)}")
    passed = sum(finding.passed for _check, finding in report.findings)
    say(f"{passed} of {len(report.findings)} checks passed.")


def _show_rows(check: Check, finding: Finding) -> None:
    if finding.offending:
        of = check.table
        rows = ([row.get("partition"), _key(of, row), _rest(of, row)] for row in finding.offending)
        table(f"{of.name}, {check.name}: the first offending rows", ["session", "key", "what"], rows)


def _key(of: Table, row: dict[str, Any]) -> str:
    return " ".join(str(row[key]) for key in of.keys if key in row)


def _rest(of: Table, row: dict[str, Any]) -> str:
    rest = {name: value for name, value in row.items() if name not in ("partition", *of.keys) and value is not None}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rest.items())


def _numbers(finding: Finding) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in finding.numbers.items() if number)


def _about(action: dict[str, Any]) -> str:
    return ", ".join(f"{k} {action[k]}" for k in ("partition", "file", "rows", "removed", "outcome") if action.get(k))
