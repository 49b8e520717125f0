"""The commands on gaps: b3 gaps, which finds and repairs them, b3 gaps mark, b3 gaps unmark."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, console, emit, guarded, say, table
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.postgres.flags import Flags
    from b3_pipeline.postgres.known_gaps import GapKey, KnownGaps
    from b3_pipeline.quality.finding import Context
    from b3_pipeline.quality.sweeping import SweepReport
    from b3_pipeline.sessions import Window
    from b3_pipeline.settings import Settings

gaps_app = typer.Typer(invoke_without_command=True)
_DAYS = ["%Y-%m-%d"]
Feed = Annotated[str, typer.Argument(help="The feed that misses it: legacy_csv, b3_sprd, yahoo_dxy, …")]
Session = Annotated[datetime, typer.Argument(help="The session.", formats=_DAYS, metavar="YYYY-MM-DD")]
OfTable = Annotated[str | None, typer.Option("--table", help="Only in this table. Default: in all that miss it.")]
Part = Annotated[str | None, typer.Option("--part", help="Only this bucket (dxy_08h50) or endpoint (gamma).")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    gaps_app.callback()(guarded(gaps))
    gaps_app.command()(guarded(mark))
    gaps_app.command()(guarded(unmark))
    app.add_typer(gaps_app, name="gaps")


def gaps(
    context: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Fill what can be filled, mark what cannot.")] = False,
    feed: Annotated[str | None, typer.Option("--feed", help="Only of this feed.")] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", help="The first session.", formats=_DAYS, metavar="YYYY-MM-DD")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", help="The last session.", formats=_DAYS, metavar="YYYY-MM-DD")
    ] = None,
    legacy: Annotated[
        Path | None, typer.Option("--legacy", help="The legacy collectors' folder. Default: B3_LEGACY_DIR.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the sessions, buckets and captures that a feed should have and has not; repair them.

    From a feed's first session to what is due by now. --repair looks in the raw archive, then in our shadow files, then
    at the sources. What none of them gives any more is marked as known and no longer red; it stays listed, and data that
    comes later takes the mark away. Nothing is made up. Running it again is safe. Exits with 1 when gaps stay open.

    Examples:

      b3 gaps

      b3 gaps --repair --feed b3_sprd --from 2026-01-02

      b3 gaps --json | jq '.gaps[] | select(.state == "open" and .sessions_left != null)'
    """
    if context.invoked_subcommand is not None:
        return
    within = _window(first, last)
    with _opened(legacy, show=not as_json, files=repair) as opened:
        report = opened.sweep(within, feed) if repair else opened.look(within, feed)
    if as_json:
        emit(report.document())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def mark(
    feed: Feed,
    session: Session,
    why: Annotated[str, typer.Option("--why", help="Why nobody will ever have it.")],
    of_table: OfTable = None,
    part: Part = None,
    as_json: Json = False,
) -> None:
    """Mark what a feed misses of a session as known: no check is red for it any more, and no sweep looks for it.

    Example:

      b3 gaps mark yahoo_dxy 2026-01-12 --why "the index was not quoted: holiday in New York"
    """
    day = session.date()
    with _opened(None, show=not as_json) as opened:
        keys = [key for key in opened.missing(feed, day) if _chosen(key, of_table, part)]
        if not keys:
            raise UsageError(f"Of {feed} nothing is missing on {day}: `b3 gaps --feed {feed}` lists what is.")
        done = [key for key in keys if opened.known.mark(key, why, _user(), opened.context.now)]
    _tell("marked", done, as_json=as_json, otherwise="It was marked before: nothing was changed.")


def unmark(
    feed: Feed,
    session: Session,
    why: Annotated[str, typer.Option("--why", help="Why it may be filled after all.")] = "",
    of_table: OfTable = None,
    part: Part = None,
    as_json: Json = False,
) -> None:
    """Take the marks of a feed's session back: what is missing is red again, and the next sweep looks for it.

    Example:

      b3 gaps unmark yahoo_dxy 2026-01-12
    """
    day = session.date()
    with _opened(None, show=not as_json) as opened:
        marked = (key for key in sorted(opened.known.marked()) if (key.feed, key.session) == (feed, day))
        keys = [key for key in marked if _chosen(key, of_table, part)]
        if not keys:
            raise UsageError(f"Of {feed} no gap is marked on {day}: `b3 gaps --feed {feed}` lists those that are.")
        done = [key for key in keys if opened.known.unmark(key, why, _user(), opened.context.now)]
    _tell("unmarked", done, as_json=as_json, otherwise="Nothing was changed.")


@dataclass(frozen=True)
class _Opened:
    """The home's servers, for the length of one command."""

    settings: Settings
    context: Context
    known: KnownGaps
    flags: Flags

    def look(self, within: Window, feed: str | None) -> SweepReport:
        from b3_pipeline.quality.sweeping import look

        return look(self.context, self.known, within, feed)

    def missing(self, feed: str, day: date) -> list[GapKey]:
        from b3_pipeline.sessions import window

        return [gap.key for gap in self.look(window(day, day), feed).found]

    def sweep(self, within: Window, feed: str | None) -> SweepReport:
        from b3_pipeline.loaders import loader_of
        from b3_pipeline.quality.sweeping import sweep, ways_of

        who, settings, context = f"{_user()}, b3 gaps --repair", self.settings, self.context
        loader = loader_of(settings, context.db, "b3 gaps --repair", self.flags.current)
        with console.status("Looking for gaps") as status:
            ways = ways_of(settings)
            return sweep(context, loader, self.known, ways, within, feed, who, lambda what: status.update(escape(what)))


@contextmanager
def _opened(legacy: Path | None, *, show: bool, files: bool = False) -> Iterator[_Opened]:
    """`files`: the sources at hand, too, which takes reading every file."""
    from b3_pipeline.home import require_disk
    from b3_pipeline.postgres.flags import Flags
    from b3_pipeline.postgres.known_gaps import open_known_gaps
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.quality.of_home import context_of
    from b3_pipeline.quality.sources import at_hand
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    settings = Settings()
    require_disk(settings)
    found = at_hand(legacy or settings.legacy_dir, settings.home) if files else []
    with (
        engines(settings, ConsoleReport(console) if show else SILENT) as servers,
        QuestDB(servers.questdb) as db,
        open_known_gaps(servers.postgres_dsn) as known,
    ):
        flags = Flags(settings.home, servers.postgres_dsn)
        context = context_of(settings, db, found, servers.postgres_dsn, flags.current())
        yield _Opened(settings, context, known, flags)


def _window(first: datetime | None, last: datetime | None) -> Window:
    from b3_pipeline.sessions import ALWAYS, Window, window

    if first and last and last < first:
        raise UsageError("--to lies before --from.")
    start = window(first.date(), first.date()).start if first else ALWAYS.start
    return Window(start, window(last.date(), last.date()).end if last else ALWAYS.end)


def _chosen(key: GapKey, of_table: str | None, part: str | None) -> bool:
    return of_table in (None, key.table) and part in (None, key.part)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "somebody"


def _tell(what: str, keys: list[GapKey], *, as_json: bool, otherwise: str) -> None:
    if as_json:
        emit({"ok": True, what: [key._asdict() for key in keys]})
        return
    for key in keys:
        say(f"{what.capitalize()}: {escape(' '.join(str(each) for each in key if each))}.")
    if not keys:
        say(otherwise)


def _show(report: SweepReport) -> None:
    """For people: a line for each feed, table, session and state."""
    from b3_pipeline.quality.gaps import parts, together

    lines: list[list[Any]] = []
    for state, whys in report.states.items():
        for some in together(whys):
            [gap, *_] = some
            lines.append([gap.feed, gap.table, gap.session, parts(some), gap.available_until, state, whys[gap]])
    if lines:
        heads = ["feed", "table", "session", "part", "source has it until", "state", "why"]
        table("Gaps", heads, lines)
    for key in report.unmarked:
        say(f"No longer missing, and no longer marked: {escape(' '.join(str(each) for each in key if each))}.")
    say(f"{len(report.open)} open, {len(report.repaired)} repaired, {len(report.known)} known.")
    if report.open:
        say("[bold]b3 gaps --repair[/] fills what can be; [bold]b3 gaps mark[/] says of the rest why nobody has it.")
