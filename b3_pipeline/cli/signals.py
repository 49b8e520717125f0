"""The commands on TP-Capital's signals: b3 signals import, list, delete, rotate-key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from b3_pipeline.cli.output import Json, emit, guarded, say, table
from b3_pipeline.cli.running import Run, conclude
from b3_pipeline.errors import UsageError

if TYPE_CHECKING:
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.settings import Settings

signals_app = typer.Typer(no_args_is_help=True, help="TP-Capital's trading signals, bots and channels.")


def register(app: typer.Typer) -> None:
    """Adds these commands to `b3`."""
    signals_app.command("import")(guarded(import_signals))
    signals_app.command("list")(guarded(list_signals))
    signals_app.command("delete")(guarded(delete_signal))
    signals_app.command("rotate-key")(guarded(rotate_key))
    app.add_typer(signals_app, name="signals")


def import_signals(
    folder: Annotated[Path, typer.Argument(help="A folder with TP-Capital's exports.", metavar="DIR")],
    strict: Annotated[bool, typer.Option("--strict", help="Rejected records, too, are a failure.")] = False,
    as_json: Json = False,
) -> None:
    """Load signals, bots and channels into QuestDB and account for every record.

    Reads tp_capital_signals.json, telegram_bots.json and telegram_channels.json. The bots' tokens are kept encrypted in
    PostgreSQL and nowhere else. Running it again changes nothing, and brings back no signal that was deleted.

    Example:

      b3 signals import ./export --json | jq .tables
    """
    conclude(import_folder(folder, show=not as_json), strict=strict, as_json=as_json)


def import_folder(folder: Path, *, show: bool = True) -> dict[str, Any]:
    """Runs the import of a folder in a recorded Dagster run; returns the JSON of `b3 signals import`."""
    from b3_pipeline.loading.payloads import require_folder
    from b3_pipeline.parsing.kinds import TP_KINDS
    from b3_pipeline.settings import Settings
    from b3_pipeline.signals.incoming import survey_signals
    from b3_pipeline.tables import TP_TABLES

    require_folder(folder, TP_KINDS)
    if not any((folder / kind.file).exists() for kind in TP_KINDS):
        raise UsageError(f"{folder} holds none of TP-Capital's files ({', '.join(k.file for k in TP_KINDS)}).")
    home = Settings().home
    with Run(show, f"Loading {folder.name}", lambda up: survey_signals(folder, home, up.postgres_dsn)) as run:
        return run.load("signals", {"signals_dir": str(folder.absolute())}, [t.name for t in TP_TABLES])


@contextmanager
def _database() -> Iterator[tuple[QuestDB, Settings]]:
    from b3_pipeline.questdb import schema
    from b3_pipeline.questdb.client import QuestDB
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings

    settings = Settings()
    with engines(settings) as servers, QuestDB(servers.questdb) as db:
        schema.apply(db, settings.clock, lock=schema.lock_of(settings))
        yield db, settings


def list_signals(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List the signals that nobody deleted, newest first.

    Example:

      b3 signals list --limit 5 --json | jq '.[] | {ts, asset, stop}'
    """
    from b3_pipeline.signals.active import newest

    with _database() as (db, _settings):
        signals = newest(db, limit)
    if as_json:
        emit(signals)
        return
    heads = ("time (UTC)", "asset", "type", "buy", "targets", "stop", "channel")
    table("Active signals", heads, map(_shown, signals), ("buy", "targets", "stop"))
    say(f"{len(signals)} shown, newest first; [bold]--limit[/] shows more.")


def _shown(signal: dict[str, Any]) -> list[object]:
    """A signal as a row for people; a price that is not given is left out."""
    buy, targets = ("buy_min", "buy_max"), ("target_1", "target_2", "target_final")
    return [
        f"{signal['ts']:%Y-%m-%d %H:%M:%S}",
        signal["asset"],
        signal["signal_type"],
        "–".join(f"{signal[c]:g}" for c in buy if signal[c] is not None),
        " ".join(f"{signal[c]:g}" for c in targets if signal[c] is not None),
        signal["stop"],
        signal["channel"],
    ]


def delete_signal(
    ts: Annotated[str, typer.Option(help="When it was sent, UTC: 2025-10-11T12:15:40Z.")],
    channel: Annotated[str, typer.Option(help="The Telegram channel.")],
    signal_type: Annotated[str, typer.Option("--type", help="Swing Trade or Day Trade.")],
    asset: Annotated[str, typer.Option(help="The ticker.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete one signal: readers no longer see it. What it was is kept, with the time of its deletion.

    Example:

      b3 signals delete --ts 2025-10-11T12:15:40Z --channel Desconhecido --type "Day Trade" --asset ABEVK122
    """
    from b3_pipeline.signals.active import SignalKey, delete, find

    key = SignalKey(_moment(ts), channel, signal_type, asset)
    if as_json and not yes:
        raise UsageError("Nobody can be asked with --json: add --yes.")
    with _database() as (db, settings):
        if not yes and not typer.confirm(_question(find(db, key)), err=True):
            say("Nothing was deleted.")
            raise typer.Exit(1)
        done = delete(db, key, settings.clock, settings.home)
    if as_json:
        emit({"ok": True, "deleted": done.now, "deleted_at": done.deleted_at, "signal": done.signal})
    elif done.now:
        say("Deleted: no reader sees it from now on.")
    else:
        say(f"It was deleted before, on {done.deleted_at:%Y-%m-%d at %H:%M:%S} UTC. Nothing was changed.")


def _moment(text: str) -> datetime:
    from b3_pipeline.parsing.times import BadDate, BadTime
    from b3_pipeline.parsing.tp_capital import parse_moment

    try:
        return parse_moment(text)
    except (BadDate, BadTime) as error:
        raise UsageError(f"--ts: {error}.") from None


def _question(signal: dict[str, Any]) -> str:
    """What is asked before a signal is deleted. Keys of signals have no control characters."""
    return (
        f"Delete the {signal['signal_type']} signal for {signal['asset']} of {signal['ts']} UTC, {signal['channel']}?"
    )


def rotate_key(as_json: Json = False) -> None:
    """Encrypt the bots' tokens anew with a new key; the old one opens nothing afterwards.

    With B3_TOKEN_KEY set: put the new key before the old one, with a comma, run this, then take the old one away.

    Example:

      b3 signals rotate-key
    """
    from b3_pipeline.services import engines
    from b3_pipeline.settings import Settings
    from b3_pipeline.signals.tokens import rotate_keys

    settings = Settings()
    with engines(settings) as servers:
        count = rotate_keys(settings.home, servers.postgres_dsn)
    if as_json:
        emit({"ok": True, "secrets": count})
    else:
        say(f"{count} secrets are encrypted with the new key.")
