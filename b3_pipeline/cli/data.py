"""The commands that move and show data: migrate, replay, settlements, sample, sql."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, emit, emit_each, guarded, say, table
from b3_pipeline.cli.running import Run, conclude
from b3_pipeline.errors import B3Error, UsageError

if TYPE_CHECKING:
    from b3_pipeline.loading.load import LoadReport
    from b3_pipeline.loading.payloads import Payload

_DAYS = ["%Y-%m-%d"]
_WAY_BACK = (
    "The folder was only read, and its readers stay with it until `b3 cutover advance`. Each row names its load "
    "(`load_id`, see b3_loads); to be rid of all of them restore a backup from before: `b3 backup list`, `b3 backup restore`."
)


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    for command in (migrate, replay, settlements, sample, sql):
        app.command()(guarded(command))


def migrate(
    legacy: Annotated[
        Path | None, typer.Option("--legacy", help="The legacy collectors' folder. Default: B3_LEGACY_DIR.")
    ] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", help="The first session.", formats=_DAYS, metavar="YYYY-MM-DD")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", help="The last session.", formats=_DAYS, metavar="YYYY-MM-DD")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Rejected records, too, are a failure.")] = False,
    as_json: Json = False,
) -> None:
    """Load a legacy folder into QuestDB and account for every record.

    Running it again changes nothing: files that were loaded are `unchanged`. Rejected records go to quarantine. With --from
    and --to only what is missing in those sessions is filled. Each migration writes a log into migrations/ of the home.

    Examples:

      b3 migrate --legacy /srv/b3/data

      b3 migrate --legacy ./data --json | jq .tables

      b3 migrate --legacy ./dumps --from 2025-03-10 --to 2025-03-14
    """
    from b3_pipeline.demo import require_none
    from b3_pipeline.settings import Settings

    require_none(Settings())
    sessions = _partitions(first, last)
    result = migrate_folder(legacy, sessions, show=not as_json)
    if not as_json and sessions:
        filled = {name: counts["filled"] for name, counts in result["tables"].items() if counts["filled"]}
        table(f"Filled in the sessions {sessions[0]} to {sessions[1]}", ["table", "rows"], filled.items(), ["rows"])
    conclude(result, strict=strict, as_json=as_json)


def _partitions(first: datetime | None, last: datetime | None) -> tuple[str, str] | None:
    """The first and the last partition in a range of days; None where none is given. Raises UsageError when it has none."""
    from b3_pipeline.defs.partitions import SESSIONS

    if first is None and last is None:
        return None
    if first is None or last is None:  # each partition is reported: from the first one of all on it would take minutes
        raise UsageError("Give both --from and --to.")
    known = SESSIONS.get_partition_keys()
    within = [key for key in known if first.date().isoformat() <= key <= last.date().isoformat()]
    if not within:
        raise UsageError(
            f"There is no session from {first.date()} to {last.date()}: give --from and --to in time's order, sessions are "
            f"known from {known[0]} to {known[-1]}."
        )
    return within[0], within[-1]


def migrate_folder(
    legacy: Path | None, sessions: tuple[str, str] | None = None, *, show: bool = True
) -> dict[str, Any]:
    """Runs the migration of a folder in a recorded Dagster run, and logs it; returns the JSON of `b3 migrate`.

    With `sessions` (from one partition to another) records of other ones are left out, and each table also has `filled`:
    how many rows came into those sessions.
    """
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
    with Run(show, f"Loading {folder.name}", lambda _servers: files) as run:
        before = _rows_of(run, sessions) if sessions else {}
        result = run.load("migrate", {"legacy_dir": str(folder.absolute())}, REPORTED_TABLES, sessions)
        for name, rows in (_rows_of(run, sessions) if sessions else {}).items():
            result["tables"][name]["filled"] = rows - before[name]
    _log(folder, sessions, result)
    return result


def _rows_of(run: Run, sessions: tuple[str, str]) -> dict[str, int]:
    """How many rows each table has in some sessions."""
    from b3_pipeline.defs.partitions import window_of
    from b3_pipeline.quality.stored import count, during
    from b3_pipeline.tables import REPORTED_TABLES, TABLES

    within = window_of(sessions)
    return {name: count(run.db, TABLES[name], during(TABLES[name], within)) for name in REPORTED_TABLES}


def _log(folder: Path, sessions: tuple[str, str] | None, result: dict[str, Any]) -> None:
    from b3_pipeline import migration_log
    from b3_pipeline.questdb import jar
    from b3_pipeline.settings import Settings

    settings = Settings()
    range_ = f", sessions {sessions[0]} to {sessions[1]}" if sessions else ""
    step = migration_log.Step(
        kind="migrate",
        title=f"Legacy folder {folder.name} into QuestDB{range_}",
        at=settings.clock(),
        outcome="done" if result["ok"] else "failed",
        seconds=result["seconds"],
        way_back=_WAY_BACK,
        counts=result["tables"],
        checksums={file["name"]: file["sha256"] for file in result["files"] if file["sha256"]},
        files=[f"{file['name']}: {file['outcome']}" for file in result["files"]],
        details={"sessions": sessions, "questdb": jar.VERSION, "errors": result.get("errors", [])},
    )
    migration_log.write(settings.home, step)


def replay(
    source: Annotated[
        str | None, typer.Argument(help="A source of the archive (`b3 archive list`). Default: all of them.")
    ] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", help="The first session.", formats=_DAYS, metavar="YYYY-MM-DD")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", help="The last session.", formats=_DAYS, metavar="YYYY-MM-DD")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Rejected records, too, are a failure.")] = False,
    as_json: Json = False,
) -> None:
    """Load what was collected once more, out of the raw archive: empty tables are filled, others stay as they are.

    Examples:

      b3 replay

      b3 replay dxy_chart --from 2026-01-12 --to 2026-01-16
    """
    from b3_pipeline.loading.archived import archive_of, found
    from b3_pipeline.settings import Settings
    from b3_pipeline.tables import ARCHIVED_TABLES

    archive = archive_of(Settings().home)
    if source is not None and source not in archive.sources():
        there = ", ".join(archive.sources()) or "nothing yet: the collector of `b3 up` fills it"
        raise UsageError(f"The archive has nothing of {source}. It has {there}.")
    files = found(archive, [source] if source else [], first.date() if first else None, last.date() if last else None)
    if not files:
        raise UsageError("The archive has nothing of these sessions: `b3 archive list` says what it has.")
    with Run(not as_json, f"Replaying {source or 'the archive'}", lambda _servers: files) as run:
        conclude(run.load("replay", {}, [t.name for t in ARCHIVED_TABLES]), strict=strict, as_json=as_json)


def settlements(
    file: Annotated[Path, typer.Argument(help="A price report of B3, SPRDyymmdd.zip.", metavar="FILE.zip")],
    as_json: Json = False,
) -> None:
    """Load one settlement report of B3 (BVBG.187) by hand.

    Example:

      b3 settlements SPRD260112.zip
    """
    from b3_pipeline.demo import require_none
    from b3_pipeline.loading.payloads import Found, payload
    from b3_pipeline.parsing.kinds import REPORT
    from b3_pipeline.settings import Settings

    require_none(Settings())
    if not file.is_file():
        raise UsageError(f"{file} is no file: give a price report of B3, SPRDyymmdd.zip.")
    content = payload(file, REPORT)
    found = [Found(file.name, REPORT, content)]
    with Run(not as_json, f"Loading {file.name}", lambda _servers: found) as run:
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
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows at most; 0 is all of them.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Ask QuestDB something, with the read-only user.

    Examples:

      b3 sql "SELECT file, table_name, loaded, rejected FROM b3_loads ORDER BY ts DESC LIMIT 5"

      b3 sql "SELECT * FROM b3_dxy_ticks" --limit 0 --json > ticks.json
    """
    from itertools import islice

    from b3_pipeline.questdb.reader import reading
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    with engines(Settings()) as servers, reading(servers.questdb, query) as (columns, rows):
        shown = islice(rows, limit or None)
        if as_json:
            emit_each(dict(zip(columns, row, strict=True)) for row in shown)
        else:
            listed = list(shown)
            table("", columns, listed)
            say(f"{len(listed):,} row{'' if len(listed) == 1 else 's'}.")
        if next(rows, None) is not None:
            say(f"[yellow]There are more than these {limit:,} rows:[/] --limit 0 gives all of them.")
