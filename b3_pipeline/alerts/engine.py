"""The rules of alerting, pure: conditions and the passing of time in, messages to channels out. No file, clock or socket.

An alert opens with a red condition, and is over when its thing has stayed green for a while (`hold_s`): what goes red
again before that has flapped, and is still the same alert. One that nobody may ever repeat ends by itself after a time.
Each opening, escalation, reminder, recovery and end is a notice; the
notices of a few seconds (`group_s`) go as one message to each channel that takes their severity. The state is one value
that can be written and read back at any moment.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel

from b3_pipeline.alerts.conditions import Condition, Kind
from b3_pipeline.settings import Settings, Severity

Event = Literal["opened", "escalated", "reminder", "recovered", "ended", "renewed", "test"]
#: The events after which an alert is no more: it is right again, or too old for anybody to know.
OVER: tuple[Event, ...] = ("recovered", "ended")
#: What is kept at most: alerts, messages that wait for a channel, notices in a message, ids of applied conditions.
OPEN_LIMIT, QUEUE_LIMIT, NOTICES, REMEMBERED = 1_000, 100, 20, 4_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """The times of alerting, in seconds."""

    group_s: float = 5
    hold_s: float = 30
    remind_s: float = 4 * 3_600

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Those of the settings."""
        return cls(settings.alert_group_s, settings.alert_hold_s, settings.alert_remind_hours * 3_600)


@dataclass(frozen=True)
class Route:
    """What a channel is given: alerts of `min_severity` and worse."""

    channel: str
    min_severity: Severity = "WARN"

    def takes(self, alert: Alert) -> bool:
        """Whether it is told of an alert; never of its own failing."""
        own = alert.kind == "channel" and alert.name == self.channel
        return not own and (alert.severity == "ERROR" or self.min_severity == "WARN")


class Alert(BaseModel):
    """Something that is wrong. `since` is the time of the first red condition, `opened` and `green_at` are engine times.

    `severity` is the worst that was seen, `count` how many red conditions there were, `told` which channels have to
    learn of the end, `ends` when it ends by itself.
    """

    kind: Kind
    name: str
    severity: Severity
    what: str
    what_to_do: str
    link: str
    since: AwareDatetime
    opened: AwareDatetime
    reminded: AwareDatetime
    last_seen: AwareDatetime
    count: int = 1
    flaps: int = 0
    green_at: AwareDatetime | None = None
    recovered: AwareDatetime | None = None
    ends: AwareDatetime | None = None
    told: list[str] = []

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.name}"


class Notice(BaseModel):
    """What happened to an alert, with the alert as it was then, and which channels are told."""

    event: Event
    alert: Alert
    channels: list[str]


class Message(BaseModel):
    """What goes to a channel at once. `lost`: so many messages before it had no room in the queue."""

    id: str
    at: AwareDatetime
    notices: list[Notice]
    lost: int = 0


class State(BaseModel):
    """All that the engine remembers: alerts by key, notices of the group that is forming, messages by channel."""

    alerts: dict[str, Alert] = {}
    pending: list[Notice] = []
    pending_since: AwareDatetime | None = None
    outbox: dict[str, list[Message]] = {}
    lost: dict[str, int] = {}
    seen: list[str] = []


class Engine:
    """The state with the rules on it. Every `now` is aware and does not go back.

    `version` grows with each change that must be safe on disk before its cause may be forgotten; that a condition was
    seen once more is no such change.
    """

    def __init__(self, rules: Rules, routes: Iterable[Route], state: State | None = None) -> None:
        self.rules, self.state, self.version = rules, state or State(), 0
        self._routes = {route.channel: route for route in routes}
        self._seen = set(self.state.seen)

    def start(self, now: datetime, broken: Collection[str] = ()) -> None:
        """Lets go of what channels were that are not configured any more, or have nothing left to deliver.

        Those in `broken` are known to fail still.
        """
        for channel in [*self.state.outbox]:
            if channel not in self._routes:
                del self.state.outbox[channel]
                self.version += 1
        for alert in self.state.alerts.values():
            fails = alert.name in broken or self.queued(alert.name) > 0
            if alert.kind == "channel" and not fails and alert.green_at is None:
                alert.green_at = alert.recovered = now
                self.version += 1

    def apply(self, condition: Condition, now: datetime) -> None:
        """Takes a condition in; one whose id was seen changes nothing."""
        if condition.id in self._seen:
            return
        self._remember(condition.id)
        alert = self.state.alerts.get(condition.key)
        if alert and self._is_over(alert, now):
            self._recover(alert, now)
            alert = None
        if condition.red and alert:
            self._again(alert, condition, now)
        elif condition.red:
            self._open(condition, now)
        elif alert and alert.green_at is None:
            alert.green_at, alert.recovered = now, condition.at
            self.version += 1

    def advance(self, now: datetime) -> None:
        """Does what is due by now: recoveries, reminders, and the message of a group that is complete."""
        for alert in [*self.state.alerts.values()]:
            if self._is_over(alert, now):
                self._recover(alert, now)
            elif alert.green_at is None and alert.ends is not None and now >= alert.ends:
                self._close(alert, "ended", now)
            elif (
                alert.severity == "ERROR"
                and alert.green_at is None
                and self._past(alert.reminded, now, self.rules.remind_s)
            ):
                alert.reminded = now
                self._notice("reminder", alert, now)
        if self.state.pending_since and self._past(self.state.pending_since, now, self.rules.group_s):
            self._flush(now)

    def head(self, channel: str) -> Message | None:
        """The message that a channel is to get next."""
        queue = self.state.outbox.get(channel)
        return queue[0] if queue else None

    def queued(self, channel: str) -> int:
        """How many messages wait for a channel."""
        return len(self.state.outbox.get(channel, ()))

    def done(self, channel: str, message_id: str) -> None:
        """A message was delivered, or given up."""
        queue = self.state.outbox.get(channel, [])
        self.state.outbox[channel] = [message for message in queue if message.id != message_id]
        self.version += 1

    def renewal(self, channel: str, now: datetime) -> Message | None:
        """All that a channel was told and that is not over, for one that forgets; None when there is nothing."""
        alerts = [alert for alert in self.state.alerts.values() if channel in alert.told]
        notices = [Notice(event="renewed", alert=alert.model_copy(), channels=[channel]) for alert in alerts]
        return Message(id=uuid.uuid4().hex, at=now, notices=notices) if notices else None

    def open(self) -> dict[Severity, int]:
        """How many alerts are open, by severity."""
        found: dict[Severity, int] = {"WARN": 0, "ERROR": 0}
        for alert in self.state.alerts.values():
            found[alert.severity] += 1
        return found

    def _remember(self, condition_id: str) -> None:
        self._seen.add(condition_id)
        self.state.seen.append(condition_id)
        if len(self.state.seen) > REMEMBERED:
            forgotten = self.state.seen[: REMEMBERED // 4]
            self.state.seen = self.state.seen[REMEMBERED // 4 :]
            self._seen.difference_update(forgotten)

    def _open(self, given: Condition, now: datetime) -> None:
        if len(self.state.alerts) >= OPEN_LIMIT:
            _log.error("%d alerts are open, the limit: %s is not told: %s", OPEN_LIMIT, given.key, given.what)
            return
        alert = Alert(
            kind=given.kind,
            name=given.name,
            severity=given.severity,
            what=given.what,
            what_to_do=given.what_to_do,
            link=given.link,
            since=given.at,
            opened=now,
            reminded=now,
            last_seen=given.at,
            ends=_ends(given, now),
        )
        self.state.alerts[alert.key] = alert
        self._notice("opened", alert, now)

    def _again(self, alert: Alert, given: Condition, now: datetime) -> None:
        alert.count, alert.last_seen = alert.count + 1, given.at
        alert.what, alert.what_to_do, alert.link = given.what, given.what_to_do, given.link
        alert.ends = alert.ends and _ends(given, now)  # what is known to be repeated stays so
        if alert.green_at is not None:
            alert.green_at, alert.recovered, alert.flaps = None, None, alert.flaps + 1
            self.version += 1
        if given.severity == "ERROR" and alert.severity == "WARN":
            alert.severity, alert.reminded = "ERROR", now
            self._notice("escalated", alert, now)

    def _is_over(self, alert: Alert, now: datetime) -> bool:
        return alert.green_at is not None and self._past(alert.green_at, now, self.rules.hold_s)

    def _recover(self, alert: Alert, now: datetime) -> None:
        self._close(alert, "recovered", now)

    def _close(self, alert: Alert, event: Event, now: datetime) -> None:
        del self.state.alerts[alert.key]
        self._notice(event, alert, now)

    def _notice(self, event: Event, alert: Alert, now: datetime) -> None:
        if event in OVER:
            channels = [channel for channel in alert.told if channel in self._routes]
        else:
            channels = [channel for channel, route in self._routes.items() if route.takes(alert)]
            alert.told = sorted({*alert.told, *channels})
        self.state.pending.append(Notice(event=event, alert=alert.model_copy(deep=True), channels=channels))
        self.state.pending_since = self.state.pending_since or now
        self.version += 1

    def _flush(self, now: datetime) -> None:
        for channel in self._routes:
            notices = [notice for notice in self.state.pending if channel in notice.channels]
            for start in range(0, len(notices), NOTICES):
                self._queue(channel, notices[start : start + NOTICES], now)
        self.state.pending, self.state.pending_since = [], None
        self.version += 1

    def _queue(self, channel: str, notices: list[Notice], now: datetime) -> None:
        """Appends a message; where there is no room the oldest goes, and the new one says how many went."""
        queue = self.state.outbox.setdefault(channel, [])
        lost = self.state.lost.pop(channel, 0)
        while len(queue) >= QUEUE_LIMIT:
            lost += queue.pop(0).lost + 1
        queue.append(Message(id=uuid.uuid4().hex, at=now, notices=notices, lost=lost))

    @staticmethod
    def _past(moment: datetime, now: datetime, seconds: float) -> bool:
        return now - moment >= timedelta(seconds=seconds)


def _ends(given: Condition, now: datetime) -> datetime | None:
    return None if given.ends_after_s is None else now + timedelta(seconds=given.ends_after_s)
