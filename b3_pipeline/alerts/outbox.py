"""The engine with its state on disk, and a courier for each channel: what was decided is delivered, in order, at least once.

The state is one file, replaced whole: conditions are let go when it is safe, a message leaves it when it was taken. So a
message comes twice only if this process died between the two, and then under the same id. On a full disk everything goes
on from memory.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from b3_pipeline.alerts.channels import Channel, Undelivered
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.engine import Engine, Message, Route, Rules, State
from b3_pipeline.credentials import write_private
from b3_pipeline.metrics import instruments

STATE = Path("alerts", "state.json")  # under the home
#: A channel that failed so often in a row, or has been busy with a message for so long, is told of on the others.
FAILURES, STUCK_S = 3, 60.0
#: After so many refusals of one message that others may not share it is given up.
REFUSALS = 5
IDLE_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pauses:
    """How long a channel is left alone after failures in a row: growing, with jitter, in seconds."""

    first_s: float = 2
    longest_s: float = 300

    def after(self, failures: int) -> float:
        """The pause after so many failures (at least one): 1–2, 2–4, 4–8 … 150–300 s."""
        whole = min(self.longest_s, self.first_s * 2 ** min(failures - 1, 30))
        return whole * random.uniform(0.5, 1)


def load(home: Path) -> State:
    """The state on disk; an empty one where there is none, or where it cannot be read: that one is put aside."""
    file = home / STATE
    try:
        return State.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return State()
    except ValidationError:
        aside = next(p for n in range(1, 10_000) if not (p := file.with_name(f"{file.name}.damaged-{n}")).exists())
        file.replace(aside)
        _log.error(
            "%s cannot be read and is put aside as %s: alerts that are open will be told again", file, aside.name
        )
        return State()


class Outbox:
    """Takes conditions, and delivers what the engine makes of them. For one process a home, any of its threads.

    `broken`: by name, why a channel that is wanted is not among the channels.
    """

    def __init__(
        self,
        home: Path,
        channels: Iterable[Channel],
        rules: Rules,
        now: Callable[[], datetime],
        broken: Mapping[str, str] | None = None,
        pauses: Pauses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home, self._now, self._broken = home, now, dict(broken or {})
        self._lock = threading.RLock()
        channels = list(channels)
        routes = [Route(channel.name, channel.min_severity) for channel in channels]
        self._engine = Engine(rules, routes, load(home))
        self._engine.start(now(), self._broken)
        self._saved = 0
        self.couriers = {c.name: Courier(c, self, pauses or Pauses(), clock) for c in channels}

    def take(self, conditions: Iterable[Condition]) -> bool:
        """Applies conditions; True when they are safe and may be forgotten where they came from."""
        with self._lock:
            for condition in conditions:
                try:
                    self._engine.apply(condition, self._now())
                except Exception:  # one that cannot be dealt with must not keep the others from people
                    _log.exception("%s was not applied", condition.key)
            return self._save()

    def advance(self) -> None:
        """Does what is due by now, and wakes the couriers that have something to do."""
        with self._lock:
            self._engine.advance(self._now())
            self._save()
            waiting = [name for name in self.couriers if self._engine.queued(name)]
        for name in waiting:
            self.couriers[name].wake()

    def head(self, channel: str) -> Message | None:
        """What a channel is to get next."""
        with self._lock:
            return self._engine.head(channel)

    def renewal(self, channel: str) -> Message | None:
        """What a channel that forgets is to be told again."""
        with self._lock:
            return self._engine.renewal(channel, self._now())

    def done(self, channel: str, message_id: str) -> None:
        """Notes that a message was delivered, or given up."""
        with self._lock:
            self._engine.done(channel, message_id)
            self._save()

    def conditions(self) -> list[Condition]:
        """How the channels are, for the others to be told."""
        known = [found for courier in self.couriers.values() if (found := courier.condition(self._now()))]
        return [*known, *(self._unusable(name, why) for name, why in self._broken.items())]

    def _unusable(self, name: str, why: str) -> Condition:
        what = f"Alerts cannot go to {name}: {why}"
        advice = "Correct the setting, then `b3 down` and `b3 up`."
        return Condition(kind="channel", name=name, red=True, what=what, what_to_do=advice, at=self._now())

    def open_alerts(self) -> dict[str, float]:
        """How many alerts are open, by severity."""
        with self._lock:
            return {severity: float(count) for severity, count in self._engine.open().items()}

    def channels(self) -> dict[str, dict[str, bool | int]]:
        """By channel: whether messages get through, as far as is known, and how many wait."""
        with self._lock:
            found = {
                name: {"up": not courier.failing, "queued": self._engine.queued(name)}
                for name, courier in self.couriers.items()
            }
            return found | {name: {"up": False, "queued": 0} for name in self._broken}

    def start(self) -> None:
        """Lets the couriers work, each in a thread of its own."""
        for courier in self.couriers.values():
            courier.start()

    def stop(self, timeout_s: float) -> None:
        """Ends their work; what they have not delivered stays for the next time."""
        deadline = time.monotonic() + timeout_s
        for courier in self.couriers.values():
            courier.stop()
        for courier in self.couriers.values():
            courier.join(max(0.0, deadline - time.monotonic()))

    def _save(self) -> bool:
        version = self._engine.version
        if version == self._saved:
            return True
        try:
            (self._home / STATE).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._home / STATE, self._engine.state.model_dump_json())
        except OSError as error:
            _log.error("The state of the alerts cannot be saved, they go on from memory: %s", error.strerror)
            return False
        self._saved = version
        return True


class Courier:
    """Brings one channel its messages in order. One that fails leaves them in the queue and is tried again, later."""

    def __init__(self, channel: Channel, outbox: Outbox, pauses: Pauses, clock: Callable[[], float]) -> None:
        self._channel, self._outbox, self._pauses, self._clock = channel, outbox, pauses, clock
        self._failures, self._refusals, self._why = 0, 0, ""
        self._in_part: str | None = None  # why not all got the last message that was taken
        self._next_try = self._renewed = clock()
        self._busy_since: float | None = None
        self._tried = False
        self._news, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"alerts to {channel.name}", daemon=True)

    @property
    def failing(self) -> bool:
        """Whether messages do not get through."""
        busy = self._busy_since
        return self._failures >= FAILURES or (busy is not None and self._clock() - busy > STUCK_S)

    def condition(self, now: datetime) -> Condition | None:
        """How the channel is; None when nobody knows yet."""
        if self.failing:
            why = self._why if self._failures else "a message has been on its way for over a minute"
            return Condition(
                kind="channel",
                name=self._channel.name,
                red=True,
                what=f"Alerts do not get through to {self._channel.name}: {why}.",
                what_to_do="Its messages wait and are tried again. `b3 doctor --alerts` sends a test to every channel.",
                at=now,
            )
        if not self._tried or self._failures:
            return None
        if self._in_part:
            return Condition(
                kind="channel",
                name=self._channel.name,
                red=True,
                severity="WARN",
                what=f"Alerts to {self._channel.name} do not reach everybody: {self._in_part}.",
                what_to_do="Correct the addresses (B3_ALERT_EMAIL_TO). What was sent is not sent again.",
                at=now,
            )
        what = f"Alerts get through to {self._channel.name}."
        return Condition(kind="channel", name=self._channel.name, red=False, what=what, at=now)

    def turn(self) -> float:
        """Sends what is due, one message at most; returns in how many seconds there may be more to do."""
        if (wait := self._next_try - self._clock()) > 0:
            return wait
        message = self._outbox.head(self._channel.name)
        if message:
            self._send(message)
            return 0 if not self._failures else self._next_try - self._clock()
        renew_s = self._channel.renew_s
        if renew_s is None:
            return IDLE_S
        if (wait := self._renewed + renew_s - self._clock()) > 0:
            return min(wait, IDLE_S)
        renewal = self._outbox.renewal(self._channel.name)
        if renewal is None or self._send(renewal):
            self._renewed = self._clock()
        return max(0.0, self._next_try - self._clock())

    def wake(self) -> None:
        """There is something to send."""
        self._news.set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._news.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                pause = self.turn()
            except Exception:  # a defect must not silence a channel for good
                _log.exception("a courier stumbled")
                pause = IDLE_S
            self._news.wait(pause)
            self._news.clear()

    def _send(self, message: Message) -> bool:
        self._busy_since = self._clock()
        try:
            self._in_part = self._channel.send(message)
        except Undelivered as error:
            self._failed(message, error)
            return False
        except Exception as error:  # its text may quote an address
            self._failed(message, Undelivered(f"it ended with {type(error).__name__}, which is a defect", refused=True))
            return False
        finally:
            self._busy_since = None
        if self._in_part:
            _log.warning("Alerts to %s: %s", self._channel.name, self._in_part)
        self._failures = self._refusals = 0
        self._tried, self._next_try = True, self._clock()
        self._outbox.done(self._channel.name, message.id)
        instruments.delivered(self._channel.name, "sent")
        return True

    def _failed(self, message: Message, error: Undelivered) -> None:
        self._failures, self._why = self._failures + 1, str(error)
        self._refusals = self._refusals + 1 if error.refused else 0
        self._next_try = self._clock() + max(error.wait_s, self._pauses.after(self._failures))
        instruments.delivered(self._channel.name, "failed")
        _log.warning("Alerts to %s, attempt %d: %s", self._channel.name, self._failures, error)
        if self._refusals >= REFUSALS:
            self._refusals = 0
            self._outbox.done(self._channel.name, message.id)
            instruments.delivered(self._channel.name, "dropped")
            _log.error(
                "Message %s is given up for %s, which refuses it; it is in the log", message.id, self._channel.name
            )
