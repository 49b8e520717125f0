"""The monitor, a resident process: serves /metrics, watches the services, and sees that alerts reach people.

`python -m b3_pipeline.monitor` runs until SIGTERM. It needs no database: it is what tells that one is away. Nothing that it
looks at ends it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from filelock import FileLock, Timeout

from b3_pipeline import services
from b3_pipeline.alerts import spool, watching
from b3_pipeline.alerts.channels import configured
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.engine import Rules
from b3_pipeline.alerts.outbox import Outbox, Pauses
from b3_pipeline.alerts.watching import Watcher
from b3_pipeline.errors import B3Error
from b3_pipeline.metrics import files, instruments
from b3_pipeline.metrics.exposition import Probes, served
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline.standing import probes
from b3_pipeline.tables import TABLES

TURN_S, LOOK_S, MERGE_S = 2.0, 5.0, 60.0
#: Without a turn for so long, /health says that something is wrong.
WORKING_S = 30.0
#: What stays as it is, is told to the engine again after so long: for the text of the next reminder.
AGAIN_S = 600.0
STOP_S = 12.0
_log = logging.getLogger(__name__)


class Monitor:
    """The work of the monitor, turn by turn; `watch` gives what is red and green now, in a thread of its own."""

    def __init__(self, settings: Settings, watch: Callable[[], Iterable[Condition]], outbox: Outbox) -> None:
        self._settings, self._watch, self.outbox = settings, watch, outbox
        self._seen: list[Condition] = []
        self._told: dict[str, tuple[bool, str, int]] = {}
        self._turned = self._merged = time.monotonic()
        self._ending, self._stopped = False, threading.Event()

    def run(self) -> None:
        """Turns until `stop` is called; then what is on its way is delivered, if that takes seconds."""
        spool.clear_drafts(self._settings.home)
        watcher = threading.Thread(target=self._look_again_and_again, name="watch", daemon=True)
        watcher.start()
        self.outbox.start()
        while not self._ending:
            self.turn()
            due = time.monotonic() + TURN_S
            while not self._ending and time.monotonic() < due:
                time.sleep(0.1)
        self._stopped.set()
        self.turn()
        self.outbox.stop(STOP_S)

    def stop(self) -> None:
        """Ends `run` soon. Safe in a signal handler, where an Event could wait for the very thread it interrupts."""
        self._ending = True

    def turn(self) -> None:
        """Takes in what waits, does what is due, and gives a sign of life."""
        for part in (self._take_spool, self._take_seen, self.outbox.advance, self._merge, self._beat):
            try:
                part()
            except Exception:  # the others are of use all the same, and the next turn tries again
                _log.exception("the monitor stumbled in %s", part.__name__)
        self._turned = time.monotonic()

    def look(self) -> None:
        """Looks at what there is to watch, once; the next turn takes it in."""
        self._seen = [*self._watch()]

    def healthy(self) -> bool:
        """Whether turns are made."""
        return time.monotonic() - self._turned < WORKING_S

    def _look_again_and_again(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception:
                _log.exception("the watch stumbled")
            self._stopped.wait(LOOK_S)

    def _take_spool(self) -> None:
        batch = spool.take(self._settings.home)
        if batch.files and self.outbox.take(batch.conditions):
            batch.remove()

    def _take_seen(self) -> None:
        self.outbox.take([one for one in [*self._seen, *self.outbox.conditions()] if self._is_news(one)])

    def _is_news(self, one: Condition) -> bool:
        """Whether the engine has to know: it changed, or is still red after a while."""
        now = (one.red, one.severity, int(time.monotonic() / AGAIN_S) if one.red else 0)
        news = self._told.get(one.key) != now
        self._told[one.key] = now
        return news

    def _merge(self) -> None:
        if time.monotonic() - self._merged >= MERGE_S:
            self._merged = time.monotonic()
            files.merge_dead(self._settings.folder(files.FOLDER))

    def _beat(self) -> None:
        beat = self._settings.folder(watching.MONITOR) / "heartbeat.json"
        draft = beat.with_suffix(".draft")
        draft.write_text(json.dumps({"at": watching.real_now().isoformat(), "pid": os.getpid()}), "utf-8")
        draft.replace(beat)  # not synced: after a crash of the machine nobody asks for it


def run(settings: Settings, probes: Probes | None = None, pauses: Pauses | None = None) -> None:
    """Runs the monitor of a home until SIGTERM or Ctrl-C. `probes` are asked beside the monitor's own.

    Raises B3Error when another one runs there, or its port is taken.
    """
    lock = FileLock(settings.folder(watching.MONITOR) / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise B3Error(f"Another monitor runs in {settings.home}: `b3 down` stops it.") from None
    try:
        instruments.ready(settings)
        watcher = Watcher(settings, partial(services.states, settings))
        channels, broken = configured(settings)
        outbox = Outbox(settings.home, channels, Rules.of(settings), watching.real_now, broken, pauses)
        monitor = Monitor(settings, watcher.look, outbox)
        asked = _own(settings, watcher, outbox, probes or Probes())
        with (
            served(settings.ports.metrics, settings.folder(files.FOLDER), asked, monitor.healthy),
            _stopped_by_signals(monitor),
        ):
            monitor.run()
    finally:
        lock.release()


def _own(settings: Settings, watcher: Watcher, outbox: Outbox, given: Probes) -> Probes:
    """The probes of the monitor itself, beside those it is given."""
    return replace(
        given,
        wal_suspended=partial(wal_suspended, settings),
        services=watcher.services,
        heartbeats=lambda: watching.heartbeats(settings.home, watching.real_now()),
        disk=partial(watching.disk, settings),
        alerts=outbox.open_alerts,
        channels=outbox.channels,
    )


def wal_suspended(settings: Settings) -> dict[str, bool]:
    """By table, whether QuestDB accepts its rows and hides them. Raises B3Error when QuestDB is away."""
    engines = services.running(settings)
    if engines is None:
        raise B3Error("QuestDB does not run.")
    with QuestDB(engines.questdb) as db:
        rows = db.query("select name, suspended from wal_tables()")
    return {name: bool(suspended) for name, suspended in rows if name in TABLES}


@contextmanager
def _stopped_by_signals(monitor: Monitor) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: monitor.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Seldom(logging.Filter):
    """Lets a line through once in `AGAIN_S`: what goes wrong each turn must not fill the disk, which may be what is wrong."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._said = clock, dict[str, float]()

    def filter(self, record: logging.LogRecord) -> bool:
        line, now = record.getMessage(), self._clock()
        if now - self._said.get(line, -AGAIN_S) < AGAIN_S:
            return False
        self._said = {said: at for said, at in self._said.items() if now - at < AGAIN_S}
        self._said[line] = now
        return True


def main() -> None:
    """What `python -m b3_pipeline.monitor` does."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom())
    try:
        settings = Settings()
        run(settings, probes(settings))
    except B3Error as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
