"""The commands of the cutover: b3 cutover status, advance, rollback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from b3_pipeline.cli.output import Json, console, emit, guarded, say, table

if TYPE_CHECKING:
    from b3_pipeline.cutover.advance import Advanced
    from b3_pipeline.cutover.evidence import Desk
    from b3_pipeline.cutover.gates import Gate
    from b3_pipeline.cutover.rollback import RolledBack
    from b3_pipeline.progress import Report
    from b3_pipeline.services import Engines
    from b3_pipeline.settings import Settings

cutover_app = typer.Typer(
    no_args_is_help=True, help="The cutover: the phase, the gates of the next step, forward and back."
)
Domain = Annotated[str, typer.Option(help="Which data: market, or ideas (LowDB's).")]
Why = Annotated[str, typer.Option(help="The reason, for the history.")]
Who = Annotated[str, typer.Option(help="Who decided it; the user of this process unless given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    cutover_app.command()(guarded(status))
    cutover_app.command()(guarded(advance))
    cutover_app.command()(guarded(rollback))
    app.add_typer(cutover_app, name="cutover")


def status(domain: Domain = "market", as_json: Json = False) -> None:
    """The phase, the gates of the next step with their evidence, and what of the old stack may be switched off.

    Example:

      b3 cutover status

      b3 cutover status --json | jq '.gates[] | select(.ok | not)'

      b3 cutover status --domain ideas
    """
    from b3_pipeline.cutover import evidence, journal, phases, switching_off

    with _desk(domain, show=not as_json) as desk:
        entry, steps = desk.entry(), phases.steps_of(domain)
        step = steps.get(entry.value)
        found = evidence.look(desk, step) if step else []
        parts = switching_off.checklist(desk)
        task = journal.under_way(desk.settings.home, domain)
    if as_json:
        told = {
            "domain": domain,
            "next": step.to if step else None,
            "since": entry.since,
            "who": entry.who,
            "why": entry.why,
        }
        under_way = asdict(task) if task else None
        more = {**told, "under_way": under_way, "parts": switching_off.document(parts)}
        emit(evidence.document(entry.value, found) | more)
        return
    since = f" since {entry.since:%Y-%m-%d %H:%M} UTC ({entry.who}: {entry.why})" if entry.since else ""
    say(f"The {domain} data are in phase [bold]{entry.value}[/]{escape(since)}.")
    if task:
        again = f"b3 cutover {task.kind}{journal.option(domain)}"
        say(f"[bold yellow]A {task.kind} to {task.to} has not ended[/]: run `{again}` again.")
    if step:
        _show_gates(found, f"Gates to {step.to}")
    rows = ([part.name, part.state, part.evidence, part.what_to_do] for part in parts)
    table("The old stack", ["part", "state", "what is known", "what to do"], rows)


def advance(
    domain: Domain = "market",
    why: Why = "",
    who: Who = "",
    override: Annotated[bool, typer.Option("--override", help="Go on although gates are red; needs --why.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Go on to the next phase, if every gate is green: legacy, shadow, active, frozen.

    A step that was cut off is finished by running this again. Every call that is no dry run leaves a log in migrations/.

    Examples:

      b3 cutover advance --dry-run

      b3 cutover advance --why "agreed with the desk"

      b3 cutover advance --override --why "the provider is away, agreed with the desk"

      b3 cutover advance --domain ideas --why "agreed with the desk"
    """
    from b3_pipeline.cutover import evidence
    from b3_pipeline.cutover.advance import advance as run

    with _desk(domain, show=not as_json) as desk:
        done = run(desk, why=why, who=who, override=override, dry_run=dry_run)
    if as_json:
        told = {"ok": done.moved or (dry_run and not done.red), "moved": done.moved, "to": done.to, "log": done.log}
        emit(evidence.document(done.phase, done.gates) | told)
    else:
        _show_advanced(done, domain, dry_run=dry_run, override=override)
    if not done.moved and (done.red if dry_run else True):
        raise typer.Exit(1)


def rollback(
    domain: Domain = "market",
    why: Why = "",
    who: Who = "",
    collectors_stopped: Annotated[
        bool, typer.Option("--collectors-stopped", help="The legacy collectors are stopped: nobody else writes there.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Go back to the legacy side, from any phase: readers at once, then its files get what they lack, and that is proven.

    What cannot go back is shown first. Before anything is written into the legacy folder it is saved in the place of
    backups. A rollback that was cut off is finished by running this again. Where QuestDB is away, or the folder cannot be
    read, readers go back all the same, and it ends with 1.

    Of the ideas the LowDB files first get all that was written in PostgreSQL since, while writes wait for it.

    Examples:

      b3 cutover rollback --dry-run

      b3 cutover rollback --collectors-stopped --why "the desk asks for it"

      b3 cutover rollback --domain ideas --why "the desk asks for it"
    """
    from b3_pipeline.cutover.rollback import rollback as run

    def announce(plan: RolledBack) -> None:
        if not as_json:
            _show_stays(plan)

    with _desk(domain, show=not as_json, back=True) as desk:
        done = run(desk, why=why, who=who, collectors_stopped=collectors_stopped, dry_run=dry_run, announce=announce)
    if as_json:
        emit(_rolled_back(done, dry_run=dry_run))
    elif dry_run:
        say("Nothing was changed.")
    elif done.log is None:
        say(f"The phase is {done.phase} already: there is nothing to go back from.")
    else:
        _show_rolled_back(done)


def _rolled_back(done: RolledBack, *, dry_run: bool) -> dict[str, Any]:
    return {
        "ok": True,
        "phase": done.phase,
        "was": done.was,
        "dry_run": dry_run,
        "readers_s": done.readers_s,
        "files": [{"file": part.file, **part.numbers()} for part in done.parts],
        "stays": done.stays,
        "parity": done.proven,
        "backup": done.backup,
        "log": done.log,
    }


def _show_gates(found: list[Gate], title: str) -> None:
    from rich.text import Text

    marks = {True: Text("green", "green"), False: Text("RED", "bold red")}
    table(title, ["gate", "", "evidence"], ([gate.name, marks[gate.ok], gate.evidence] for gate in found))
    for gate in found:
        if not gate.ok:
            say(f"[bold red]{gate.name}[/]: {escape(gate.what_to_do)}")


def _show_advanced(done: Advanced, domain: str, *, dry_run: bool, override: bool) -> None:
    if done.gates:
        _show_gates(list(done.gates), f"Gates to {done.to}")
    red = ", ".join(gate.name for gate in done.red)
    if done.moved:
        say(f"The {domain} data are in phase [bold]{done.phase}[/] from now on.")
    elif dry_run:
        over = f", with an override of {red}" if override and red else ""
        say(f"Nothing was changed. Now it would {'be refused' if red and not override else f'go to {done.to}{over}'}.")
    else:
        say(f"[bold red]Refused[/], the phase is {done.phase} still. Red: [bold]{red}[/].")


def _show_stays(plan: RolledBack) -> None:
    if not plan.parts:
        return
    rows = ([p.file, p.rows, p.added, p.filled, p.removed, p.beyond, p.stands] for p in plan.parts)
    heads = ["file", "rows to write", "new lines", "lines filled", "lines gone", "stays behind", "file's own stands"]
    table("What the legacy files get, and what cannot go back", heads, rows, heads[1:])
    for file, given in plan.stays.items():
        if given["beyond"]:
            say(f"{file}: {given['beyond']:,} rows stay in the tables only: {given['what']}.")


def _show_rolled_back(done: RolledBack) -> None:
    say(f"Readers went back in {done.readers_s or 0:.2f} s. The phase is [bold]{done.phase}[/].")
    rows = ([what, n["source_keys"], n["missing"], n["extra"], n["different"]] for what, n in done.proven.items())
    if done.proven:
        table("Parity of the legacy files", ["table, feed", "source", "missing", "extra", "other"], rows, ["source"])
    if done.backup:
        say(f"The folder as it was: {escape(str(done.backup['name']))} in the place of backups.")


@contextmanager
def _servers(settings: Settings, report: Report, even_without_questdb: bool) -> Iterator[Engines]:
    """The home's servers; if that is enough PostgreSQL alone, where QuestDB does not start: the phase is kept there."""
    from pydantic import SecretStr

    from b3_pipeline.errors import B3Error
    from b3_pipeline.home import HomeBusy
    from b3_pipeline.services import engines, known_engines

    with ExitStack() as stack:
        try:
            servers = stack.enter_context(engines(settings, report))
        except (B3Error, OSError) as error:
            if isinstance(error, HomeBusy) or not even_without_questdb:
                raise
            report(f"{error} It goes on without QuestDB.")
            servers = known_engines(settings)
            away = SecretStr(servers.questdb.http_url)  # as if it were somebody else's, whom nobody has to start
            stack.enter_context(engines(settings.model_copy(update={"questdb_url": away}), report))
        yield servers


@contextmanager
def _desk(domain: str, *, show: bool, back: bool = False) -> Iterator[Desk]:
    """The servers of the home, and what is being looked at on a line of its own.

    Who goes back, and the ideas, need no QuestDB.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from b3_pipeline.cutover import phases
    from b3_pipeline.cutover.evidence import Desk
    from b3_pipeline.postgres.flags import MARKET
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.settings import Settings

    phases.steps_of(domain)  # before anything is started
    settings = Settings()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        _servers(settings, ConsoleReport(console) if show else SILENT, back or domain != MARKET) as servers,
        QuestDB(servers.questdb) as db,
        Progress(*columns, console=console, disable=not show, transient=True) as bar,
    ):
        task = bar.add_task("", total=None)

        def tell(what: str) -> None:
            bar.update(task, description=escape(what))

        def expect(size: int) -> None:
            bar.reset(task, total=size or None)

        yield Desk(settings, servers, db, domain, tell, lambda read: bar.advance(task, read), expect)
