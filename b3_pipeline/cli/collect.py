"""The commands on collecting: b3 collect, and b3 archive list, verify, export, prune."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, console, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.settings import Settings
    from b3_pipeline.sources.archive import Archive

archive_app = typer.Typer(
    no_args_is_help=True, help="The raw archive: every payload as it was received, and the way to keep it small."
)
Source = Annotated[str | None, typer.Argument(help="Only this source. Default: all of them.", metavar="SOURCE")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    app.command()(guarded(collect))
    archive_app.command("list")(guarded(list_entries))
    for command in (verify, export, prune):
        archive_app.command()(guarded(command))
    app.add_typer(archive_app, name="archive")


def collect(
    source: Annotated[
        str | None, typer.Argument(help="Ask this one now, whatever the time, and end.", metavar="SOURCE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring what the sources give into the raw archive: all of them, for as long as it runs, or one of them once.

    Without SOURCE it stays: each source is asked at its own times on trading sessions, and what was missed while nobody
    collected is fetched at the start. The legacy collectors' ultimo_dado.json and gamma.json are watched where
    B3_LEGACY_DIR is set. It needs no database, and Dagster loads from the archive whenever that is up. b3 up runs it.
    What it does is told on standard error, one line each; Ctrl-C or SIGTERM ends it cleanly.

    With SOURCE it exits with 1 when the answer was refused or there was none. An answer with nothing new, or "not yet",
    is no failure.

    B3_SOURCES_OFF=dxy_chart,gamma_levels leaves sources out. B3_REPLAY_DIR=DIR replays a recording (any archive, or an
    export of one) instead of asking anybody, B3_REPLAY_SPEED times as fast: the home's clock is then the recording's,
    for all of its processes, as clock.json in the home says. Delete that file to be back in the present.

    Examples:

      b3 collect

      b3 collect settlement_report --json | jq .outcome

      B3_HOME=./demo B3_REPLAY_DIR=./recording B3_REPLAY_SPEED=60 b3 collect
    """
    from b3_pipeline.settings import Settings

    settings = Settings()
    if source is None:
        if as_json:
            raise UsageError("--json goes with a SOURCE: without one, b3 collect stays and has no result.")
        _collect_all(settings)
    else:
        _collect_one(settings, source, as_json)


def _collect_all(settings: Settings) -> None:
    from b3_pipeline.sources.collector import Collector

    collector = Collector(settings)
    try:
        with _ended_by_signals():
            collector.run()
    except KeyboardInterrupt:
        say("Collecting has ended.")
    if collector.busy:
        sys.stderr.flush()
        os._exit(0)  # a thread that writes while the interpreter ends would abort it; what was archived is on the disk


def _collect_one(settings: Settings, source: str, as_json: bool) -> None:
    from b3_pipeline.sources.collector import collect_once

    attempt = collect_once(settings, source)
    ok = attempt.outcome.ok
    if as_json:
        entry = asdict(attempt.entry) if attempt.entry else None
        emit({"ok": ok, "source": source, "outcome": attempt.outcome, "entry": entry, "problem": attempt.problem})
    elif attempt.entry:
        facts = ((k, v) for k, v in asdict(attempt.entry).items() if v is not None)
        table(f"New in the archive: {source}", ["what", "value"], ((k, str(v)) for k, v in facts))
    elif ok:
        said = {"unchanged": "has nothing new", "not_yet": "does not have it yet"}[attempt.outcome]
        say(escape(f"{source} {said}{f': {attempt.problem}' if attempt.problem else '.'}"))
    else:
        say(f"[bold red]{source} {attempt.outcome}:[/] {escape(attempt.problem or '')}")
    if not ok:
        raise typer.Exit(1)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does; a second signal changes nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def list_entries(
    source: Source = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Entries at most, the newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List the sources in the archive; with SOURCE, its newest entries.

    Examples:

      b3 archive list

      b3 archive list ultimo_dado --limit 5 --json | jq '.[].sha256'
    """
    archive = _archive()
    if source is None:
        _list_sources(archive, as_json)
        return
    [name] = _chosen(archive, source)
    first, last = archive.first(name), archive.last(name)
    seqs = range(last, max(first, last - limit + 1) - 1, -1)
    entries = [asdict(entry) for seq in seqs if (entry := archive.entry(name, seq))]
    if as_json:
        emit(entries)
        return
    heads = ["seq", "at", "name", "size", "session", "status", "url"]
    table(f"Archive: {name}", heads, ([entry[head] for head in heads] for entry in entries), ["seq", "size"])
    say(f"{len(entries):,} of {last - first + 1:,} entries.")


def _list_sources(archive: Archive, as_json: bool) -> None:
    from b3_pipeline.loading.archived import loaded_upto
    from b3_pipeline.sources.archive import ArchiveDamaged
    from b3_pipeline.sources.exporting import exported

    listed: list[dict[str, Any]] = []
    for name in archive.sources():
        newest = None
        done = exported(archive, name)
        with suppress(ArchiveDamaged):  # `b3 archive verify` tells of it
            newest = archive.newest(name)
        facts = {"source": name, "first": archive.first(name), "last": archive.last(name)}
        facts |= {"newest": newest.at if newest else None, "loaded": loaded_upto(archive, name)}
        size = sum(path.stat().st_size for path in (archive.place(name) / "payloads").glob("*/*.gz"))
        listed.append({**facts, "exported": done[-1].last if done else 0, "bytes": size})
    if as_json:
        emit(listed)
    else:
        heads = ["source", "first", "last", "newest", "loaded", "exported", "bytes"]
        rows = ([facts[head] for head in heads] for facts in listed)
        table("Archive", heads, rows, ["first", "last", "loaded", "exported", "bytes"])


def verify(source: Source = None, as_json: Json = False) -> None:
    """Read every payload back and compare it with its hash. Exits with 1 when anything is damaged or missing.

    Example:

      b3 archive verify
    """
    from b3_pipeline.sources import exporting

    archive, faults, entries = _archive(), [], 0
    for name in _chosen(archive, source):
        if not as_json:
            console.print(f"Reading {name}.", style="dim")
        faults += exporting.verify(archive, name)
        entries += archive.last(name) - archive.first(name) + 1 if archive.last(name) else 0
    if as_json:
        emit({"ok": not faults, "entries": entries, "faults": [asdict(fault) for fault in faults]})
    elif faults:
        table("Damaged", ["source", "entry", "problem"], ([f.source, f.seq, f.problem] for f in faults))
        say(f"[bold red]{len(faults)} of {entries:,} entries are damaged[/]: an export may have them still.")
    else:
        say(f"{entries:,} entries, all of them as they were received.")
    if faults:
        raise typer.Exit(1)


def export(
    folder: Annotated[Path, typer.Argument(help="Where to; best on another disk.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Copy the closed months that are in no export yet, and read them back.

    DIR becomes an archive itself: it can be verified, replayed (B3_REPLAY_DIR) and exported to again. What is in it may
    be pruned here.

    Example:

      b3 archive export /mnt/backup/b3-archive --json | jq .ok
    """
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.settings import Settings
    from b3_pipeline.sources import exporting

    report = SILENT if as_json else ConsoleReport(console)
    done = exporting.export(_archive(), folder, Settings().clock(), report)
    if as_json:
        items = [
            {
                "name": f"{s.source} {s.month}",
                "rows": s.last - s.first + 1,
                "bytes": s.bytes,
                "sha256": s.sha256,
                "path": str(Path(s.folder) / s.source / s.manifest),
                "action": "exported",
            }
            for s in done
        ]
        emit({"ok": True, "items": items})
        return
    rows = ([s.source, s.month, s.first, s.last, s.bytes] for s in done)
    table(f"Exported to {folder}", ["source", "month", "first", "last", "bytes"], rows, ["first", "last", "bytes"])
    if not done:
        say("Nothing to export: no closed month is without one.")


def prune(
    before: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="Keep what was received on this day (UTC) or later.")
    ],
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Remove old payloads that are exported (the export is read back first) and loaded. The newest always stays.

    Examples:

      b3 archive prune --before 2025-07-01

      b3 archive prune settlement_report --before 2025-07-01 --json
    """
    from b3_pipeline.loading.archived import loaded_upto
    from b3_pipeline.sources import exporting

    archive, day = _archive(), before.replace(tzinfo=UTC).date()
    chosen = _chosen(archive, source)
    done = [exporting.prune(archive, name, day, lambda name: loaded_upto(archive, name)) for name in chosen]
    if as_json:
        items = [
            {"name": p.source, "rows": p.entries, "bytes": p.bytes, "action": "pruned", "kept_for": p.kept_for}
            for p in done
        ]
        emit({"ok": True, "items": items})
        return
    rows = ([p.source, p.entries, p.payloads, p.bytes, p.kept_for] for p in done)
    table(
        "Pruned", ["source", "entries", "payloads", "bytes", "the next stays:"], rows, ["entries", "payloads", "bytes"]
    )


def _archive() -> Archive:
    from b3_pipeline.settings import Settings
    from b3_pipeline.sources.archive import FOLDER, Archive

    return Archive(Settings().home / FOLDER)


def _chosen(archive: Archive, source: str | None) -> list[str]:
    """The sources that are meant. Raises UsageError for one that has nothing in the archive."""
    there = archive.sources()
    if source is not None and source not in there:
        raise UsageError(f"{source} has nothing in the archive: {', '.join(there) or 'nothing has'}.")
    return there if source is None else [source]
