"""The commands on flags and phases: b3 flags, b3 flags set, b3 flags history, b3 flags refresh-shadow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from b3_pipeline.cli.output import Json, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.postgres.flags import Entry
    from b3_pipeline.settings import Settings

flags_app = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    flags_app.callback()(guarded(show_flags))
    flags_app.command("set")(guarded(set_flag))
    flags_app.command("history")(guarded(show_history))
    flags_app.command("refresh-shadow")(guarded(refresh_shadow))
    app.add_typer(flags_app, name="flags")


def show_flags(context: typer.Context, as_json: Json = False) -> None:
    """Flags and phases, which change while everything runs: what is set, since when, by whom and why.

    Every process sees a change within a second. While PostgreSQL is away, all go on with the last known state,
    which is then shown here.

    Example:

      b3 flags

      b3 flags set shadow_files on --why "first day beside the legacy collectors"
    """
    if context.invoked_subcommand is not None:
        return
    from b3_pipeline.postgres.flags import Flags
    from b3_pipeline.settings import Settings

    settings = Settings()
    current = Flags(settings.home, _dsn(settings)).current()
    if current.stale:
        say("PostgreSQL is away: this is the last known state. [bold]b3 up[/] starts everything.")
    if as_json:
        emit([asdict(entry) | {"stale": current.stale} for entry in current.entries.values()])
    else:
        _table("Flags", list(current.entries.values()))


def _dsn(settings: Settings) -> str | None:
    """Where PostgreSQL is, where it is up; none is started only to be asked."""
    from b3_pipeline.services import running

    if settings.postgres_dsn is not None:
        return settings.postgres_dsn.get_secret_value()
    engines = running(settings)
    return engines.postgres_dsn if engines else None


def _table(title: str, entries: Sequence[Entry]) -> None:
    rows = (
        [e.domain, e.name, e.value, e.since and f"{e.since:%Y-%m-%d %H:%M:%S}", e.who or "(default)", e.why]
        for e in entries
    )
    table(title, ["domain", "name", "value", "since (UTC)", "who", "why"], rows)


def set_flag(
    name: Annotated[str, typer.Argument(help="shadow_files. The phase moves by `b3 cutover`.")],
    value: Annotated[str, typer.Argument(help="shadow_files: on, off.")],
    why: Annotated[str, typer.Option(help="The reason, for the history.")],
    domain: Annotated[str, typer.Option(help="market or ideas.")] = "market",
    who: Annotated[str, typer.Option(help="Who decided it; the user of this process unless given.")] = "",
    as_json: Json = False,
) -> None:
    """Set a flag from now on. What was set before stays in the history.

    The phase is none of these: `b3 cutover advance` moves it on when its gates are green, `b3 cutover rollback` back.

    Example:

      b3 flags set shadow_files on --why "first day beside the legacy collectors"
    """
    from b3_pipeline.postgres import flags
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    settings = Settings()
    now = settings.clock()
    flags.require(flags.Entry(domain, name, value, now, who, why.strip()))  # before anything is started
    if name == flags.PHASE.name:
        raise UsageError(
            'The phase moves by `b3 cutover advance`, which looks at the gates first (--override --why "…" goes on '
            "although one is red), and by `b3 cutover rollback`."
        )
    with engines(settings) as servers:
        entry = flags.set_flag(servers.postgres_dsn, name, value, why=why, at=now, who=who, domain=domain)
        flags.Flags(settings.home, servers.postgres_dsn).current()  # the last known state is this one from now on
    if as_json:
        emit(_document(entry))
    else:
        say(f"{entry.domain} {entry.name} is {entry.value} from now on.")


def _document(entry: Entry) -> dict[str, Any]:
    return {"ok": True, **asdict(entry)}


def show_history(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    as_json: Json = False,
) -> None:
    """What was ever set, newest first.

    Example:

      b3 flags history --json | jq '.[] | {since, name, value, why}'
    """
    from b3_pipeline.postgres.flags import history
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    with engines(Settings()) as servers:
        entries = history(servers.postgres_dsn, limit)
    if as_json:
        emit([asdict(entry) for entry in entries])
    else:
        _table("History of flags", entries)


def refresh_shadow(as_json: Json = False) -> None:
    """Write the shadow's legacy files anew from the tables: what is missing comes, what differs is put right.

    Lines of days of which a table holds nothing stay. A file that is not ours is moved aside, to *.damaged-<n>. Running
    it again changes nothing.

    Example:

      b3 flags refresh-shadow --json | jq '.files[] | {file, outcome, beyond}'
    """
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings
    from b3_pipeline.shadow.files import folder_of
    from b3_pipeline.shadow.writing import refresh

    settings = Settings()
    folder = folder_of(settings)  # before anything is started
    with engines(settings) as servers, QuestDB(servers.questdb) as db:
        reports = refresh(db, folder)
    ok = all(report.ok for report in reports)
    if as_json:
        emit({"ok": ok, "folder": str(folder), "files": [asdict(report) for report in reports]})
    else:
        rows = ([r.file, r.outcome, r.rows, r.beyond, r.reason] for r in reports)
        table(f"Shadow files in {folder}", ["file", "outcome", "rows", "beyond", "remark"], rows, ("rows", "beyond"))
        say("Beyond are rows that the legacy form cannot hold.")
    if not ok:
        raise typer.Exit(1)
