"""The commands on what runs: b3 up, down, status, doctor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from b3_pipeline.cli.output import Json, age, console, emit, guarded, say, table
from b3_pipeline.errors import B3Error, UsageError

if TYPE_CHECKING:
    from b3_pipeline.home import Holder
    from b3_pipeline.questdb.client import Address
    from b3_pipeline.settings import Settings

SAMPLE_FOLDER, _SAMPLE_IDEAS = "sample", "sample-lowdb"  # under the home
_FRESH = {None: "-", True: "yes", False: "late"}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    for command in (up, down, status, doctor):
        app.command()(guarded(command))


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is healthy; stop it with b3 down.")] = False,
    legacy: Annotated[
        Path | None, typer.Option("--legacy", help="Load this legacy folder, too.", metavar="DIR")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Make and load a synthetic legacy folder, too.")] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Load a synthetic history, and replay its last session as if it were now.")
    ] = False,
    speed: Annotated[
        float, typer.Option(help="How many times as fast the session of --demo goes.", min=0.1, max=1000)
    ] = 20,
    definitions: Annotated[
        Path | None, typer.Option(hidden=True, help="A Python file with definitions instead of the project's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start everything: QuestDB, PostgreSQL, Dagster, the collector and the monitor; print the addresses once all is healthy.

    Stays in the foreground: Ctrl-C stops all of it cleanly. A server that crashes is started again, after growing
    pauses; what it last said is kept in logs/restarts.log.

    Examples:

      b3 up --demo

      b3 up --demo --speed 60

      b3 up --legacy /srv/b3/data --detach
    """
    from b3_pipeline.demo import require_none
    from b3_pipeline.home import Holder, State
    from b3_pipeline.settings import Settings

    if sum((legacy is not None, sample, demo)) > 1:
        raise UsageError("Give one of --legacy DIR, --sample and --demo.")
    if legacy and not legacy.is_dir():
        raise UsageError(f"{legacy} is no folder: give the legacy collectors' folder with --legacy DIR.")
    folder = Settings().home / SAMPLE_FOLDER if sample else legacy and legacy.absolute()
    settings = Settings(legacy_dir=folder) if folder else Settings()  # so that runs launched in the UI load it, too
    holder = Holder.of(settings.home)
    begin: Callable[[], object] = dict  # nothing to begin
    if not (holder and holder.shared):
        if demo:
            settings, folder, begin = _demonstration(settings, speed)
        else:
            require_none(settings)
    if holder and holder.shared and holder.state == State.READY:
        say(f"Already up (pid {holder.pid}).")
        _show_addresses(settings, holder, as_json)
    elif detach:
        _detached(settings)
    else:
        _foreground(settings, definitions, folder, as_json, begin, sample=sample, synthetic=sample or demo)


def _demonstration(settings: Settings, speed: float) -> tuple[Settings, Path, Callable[[], object]]:
    """The settings of a home that replays, the folder with the history to load first, and what begins the replay."""
    from datetime import UTC, datetime

    from b3_pipeline.demo import begin, is_over, prepare

    demo = prepare(settings, speed, datetime.now(UTC))
    if is_over(settings.home, demo):
        say(
            f"The demonstration of the session of [bold]{demo.session}[/] is over: what it brought stays, and nothing more "
            "comes. To see one again, set B3_HOME to a new folder."
        )
    else:
        say(
            f"A demonstration: synthetic data, and the session of [bold]{demo.session}[/] replayed {speed:g} times as fast."
        )
    settings = type(settings)(legacy_dir=demo.history)
    return settings, demo.history, lambda: begin(settings.home, demo, speed, datetime.now(UTC))


def _foreground(
    settings: Settings,
    definitions: Path | None,
    folder: Path | None,
    as_json: bool,
    begin: Callable[[], object],
    *,
    sample: bool,
    synthetic: bool,
) -> None:
    from b3_pipeline.home import State, hold
    from b3_pipeline.progress import SILENT, ConsoleReport
    from b3_pipeline.services import all_services

    report = SILENT if as_json else ConsoleReport(console)
    try:
        with (
            _ended_by_signals(),
            hold(settings, shared=True) as held,
            all_services(settings, report, held, definitions) as services,
        ):
            _apply_schema(settings, services.engines.questdb)
            _prepare_ideas(settings, services.engines.postgres_dsn)
            _lead_readers(settings, services.engines.postgres_dsn)
            report("Waiting for Dagster.")
            services.wait_healthy()
            if folder:
                _load(settings, folder, sample, show=not as_json)
            if synthetic:
                _load_ideas(settings, services.engines.postgres_dsn)
            begin()
            services.collect()
            _show_addresses(settings, held.holder, as_json)
            held.reached(State.READY)
            services.watch(lambda message: say(escape(message)))
    except KeyboardInterrupt:
        say("All stopped.")


def _apply_schema(settings: Settings, address: Address) -> None:
    from b3_pipeline.questdb import schema
    from b3_pipeline.questdb.client import QuestDB

    with QuestDB(address) as db:
        schema.apply(db, settings.clock, lock=schema.lock_of(settings))


def _prepare_ideas(settings: Settings, dsn: str) -> None:
    """Makes the tables of the ideas, so that board and API are of use without a migration."""
    from b3_pipeline.lowdb.schema import prepare

    try:
        prepare(dsn, settings.home, settings.clock)
    except (B3Error, OSError) as error:  # all else is of use without them
        say(f"[bold red]The tables of the ideas were not made:[/] {escape(str(error))}")


def _lead_readers(settings: Settings, dsn: str) -> None:
    """Puts the link of the desk's file readers where the phase says."""
    from b3_pipeline.cutover import link
    from b3_pipeline.postgres.flags import Flags

    try:
        link.follow(settings, Flags(settings.home, dsn).current().phase())
    except (B3Error, OSError) as error:  # nobody need read files
        say(f"[bold red]File readers are not led anywhere:[/] {escape(str(error))}")


def _load(settings: Settings, folder: Path, sample: bool, *, show: bool) -> None:
    """Loads a folder; a synthetic one is made when it is not there."""
    from b3_pipeline.cli.data import migrate_folder
    from b3_pipeline.cli.running import show_account
    from b3_pipeline.sample import make_sample

    try:
        if sample and not (folder.exists() and any(folder.iterdir())):
            make_sample(folder, settings.clock(), sessions=60)
        result = migrate_folder(folder, show=show)
    except B3Error as error:  # the servers are of use all the same
        say(f"[bold red]{escape(str(folder))} was not loaded:[/] {escape(str(error))}")
        return
    if show:
        show_account(result)
    if not result["ok"]:
        say(f"[bold red]Not all of {escape(str(folder))} was loaded[/]: [bold]b3 migrate[/] says what is wrong.")


def _load_ideas(settings: Settings, dsn: str) -> None:
    """Puts synthetic ideas and documentation into tables of the home's own in which there has never been anything."""
    from b3_pipeline.cli.lowdb import migrate_folder
    from b3_pipeline.lowdb.loading import standing
    from b3_pipeline.lowdb.sample import make_lowdb_sample
    from b3_pipeline.lowdb.schema import ideas

    if settings.lowdb_dir or settings.postgres_dsn:
        return
    folder = settings.home / _SAMPLE_IDEAS
    try:
        with ideas(dsn) as db:
            used = any(each["rows"] or each["loaded_at"] for each in standing(db))
        if used:
            return
        if not folder.exists():
            make_lowdb_sample(folder, settings.clock())
        errors = migrate_folder(folder, show=False).get("errors", ())
    except (B3Error, OSError) as error:  # all else is of use without them
        errors = [str(error)]
    if errors:
        say(f"[bold red]The synthetic ideas were not loaded:[/] {escape(' '.join(map(str, errors)))}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does; while it is being left, a second one changes nothing."""

    def end(_number: int, _frame: object) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _detached(settings: Settings) -> None:
    """Runs the same command in the background and returns when it is ready; passes on what it says until then."""
    log = settings.folder("logs") / "up.log"
    arguments = [a for a in sys.argv[1:] if a != "--detach"]
    with tempfile.TemporaryFile() as answer, log.open("ab") as sink, log.open("rb") as source:
        source.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            [sys.executable, "-m", "b3_pipeline", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=sink,
            env={**os.environ, "COLUMNS": str(shutil.get_terminal_size().columns)},
            start_new_session=True,
        )
        code = _follow(settings, child, source)
        answer.seek(0)
        sys.stdout.write(answer.read().decode())
    if code:
        raise typer.Exit(code)


def _follow(settings: Settings, child: subprocess.Popen[bytes], source: IO[bytes]) -> int:
    """Shows what the child writes until it is ready (0) or has ended (its code)."""
    from b3_pipeline.home import Holder, State

    try:
        while True:
            code, holder = child.poll(), Holder.of(settings.home)
            sys.stderr.write(source.read().decode("utf-8", "replace"))
            if code is not None:
                return code
            if holder and holder.pid == child.pid and holder.state == State.READY:
                return 0
            time.sleep(0.1)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise


def _show_addresses(settings: Settings, holder: Holder, as_json: bool) -> None:
    """Where everything is; the users' names, and the folder in which their passwords lie."""
    from b3_pipeline.postgres.server import ROLE, sockets_of
    from b3_pipeline.questdb.server import ADMIN, READER
    from b3_pipeline.settings import Ports

    ports, secrets = Ports(holder.port_base), settings.home / "secrets"
    rows = [
        ("The desk's page", f"http://127.0.0.1:{ports.page}", ""),
        ("API", f"http://127.0.0.1:{ports.page}/docs", ""),
        ("Dagster", f"http://127.0.0.1:{ports.dagster}", ""),
        ("Prometheus metrics", f"http://127.0.0.1:{ports.metrics}/metrics", ""),
    ]
    if not settings.questdb_url:
        rows += [
            ("QuestDB console", f"http://127.0.0.1:{ports.questdb_http}", ADMIN),
            ("QuestDB PG wire", f"127.0.0.1:{ports.questdb_pg}", f"{ADMIN}, {READER}"),
            ("QuestDB metrics", f"http://127.0.0.1:{ports.questdb_health}/metrics", ""),
        ]
    if not settings.postgres_dsn:
        rows.append(("PostgreSQL", f"{sockets_of(settings.home)} (socket)", ROLE))
    if as_json:
        addresses = {name: {"address": address, "users": users} for name, address, users in rows}
        emit({"ok": True, "home": settings.home, "pid": holder.pid, "addresses": addresses, "secrets": secrets})
    else:
        table("All healthy", ["what", "where", "user"], rows)
        say(f"Their passwords lie in {secrets}. Ctrl-C or [bold]b3 down[/] stops all of it.")


def down(as_json: Json = False) -> None:
    """Stop what b3 up runs in this home.

    Example:

      b3 down
    """
    from b3_pipeline.services import stop_holder
    from b3_pipeline.settings import Settings

    stopped = stop_holder(Settings())
    if as_json:
        emit({"ok": True, "stopped": stopped})
    else:
        say(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")


def status(as_json: Json = False) -> None:
    """Show what runs, how many rows each table has, how old they are and what is due. Exits with 1 unless all is up.

    Examples:

      b3 status

      b3 status --json | jq '.services'
    """
    from b3_pipeline.backup.backups import standing
    from b3_pipeline.services import restarts, running, states
    from b3_pipeline.settings import Settings
    from b3_pipeline.standing import archived, phase, tables
    from b3_pipeline.supervision import LOG_NAME

    settings = Settings()
    again = restarts(settings)
    services = {name: "up" if is_up else "down" for name, is_up in states(settings).items()}
    engines = running(settings)
    found = tables(settings, engines) if engines and services["questdb"] == "up" else {}
    archive, now, backup = archived(settings), phase(settings, engines), standing(settings)
    if as_json:
        more = {"restarts": again, "tables": found, "archive": archive, "backup": backup}
        emit({"phase": now, "services": services, **more})
    else:
        say(f"Phase of the market data: [bold]{now}[/].")
        if backup:
            proven = "proven" if backup["verified_at"] else "[yellow]not proven[/]"
            say(f"Newest backup: {backup['name']}, {age(backup['age_s'])} old, {proven}.")
        rows = ([name, state, again.get(name, 0)] for name, state in services.items())
        table("Services", ["service", "state", "restarts"], rows, ["restarts"])
        if any(again.values()):
            say(f"Why a server was started again: {settings.home / 'logs' / LOG_NAME}.")
        if found:
            rows = (
                [name, t["rows"], t["newest"], age(t["age_s"]), t["due"], _FRESH[t["fresh"]]]
                for name, t in found.items()
            )
            table("Tables", ["table", "rows", "newest (UTC)", "age", "due (UTC)", "fresh"], rows, ["rows"])
        if archive:
            rows = ([name, a["newest"], a["behind"], a["problem"] or ""] for name, a in archive.items())
            table("Archive", ["source", "newest (UTC)", "behind", "problem"], rows, ["behind"])
    if "down" in services.values():
        raise typer.Exit(1)


def doctor(
    alerts: Annotated[bool, typer.Option("--alerts", help="Send a test through every alert channel, too.")] = False,
    as_json: Json = False,
) -> None:
    """Check this machine, this home and its sources: what is wrong, and what to do about it. Loads nothing.

    Exits with 1 when a check fails.

    Examples:

      b3 doctor

      b3 doctor --alerts

      b3 doctor --json | jq '.checks[] | select(.state != "ok")'
    """
    from b3_pipeline.doctor import examine, try_alerts
    from b3_pipeline.settings import Settings

    settings = Settings()
    checks = [*examine(settings), *(try_alerts(settings) if alerts else [])]
    ok = all(check.state != "fail" for check in checks)
    if as_json:
        emit({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}
        rows = ([check.name, Text.from_markup(marks[check.state]), check.found, check.advice] for check in checks)
        table("Doctor", ["check", "state", "found", "what to do"], rows)
    if not ok:
        raise typer.Exit(1)
