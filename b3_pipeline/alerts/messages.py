"""What people read: a message as title, lines of text and data, with links into the Dagster UI."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from b3_pipeline.alerts.engine import OVER, Message, Notice
from b3_pipeline.ports import HOST
from b3_pipeline.sessions import ZONE
from b3_pipeline.settings import Settings

_EVENTS = {
    "opened": "",
    "escalated": "worse than before",
    "reminder": "still not right",
    "recovered": "right again",
    "ended": "too old to be told any more, not known to be right",
    "renewed": "",
    "test": "",
}


def base_of(settings: Settings) -> str:
    """Where links lead, without a slash at the end: the Dagster UI as people reach it."""
    return (settings.public_url or f"http://{HOST}:{settings.ports.dagster}").rstrip("/")


def link(base: str, notice: Notice) -> str:
    """The address of the page in the Dagster UI on which one sees more."""
    return f"{base}/{notice.alert.link.lstrip('/')}"


def severity(message: Message) -> str:
    """The worst severity of a message; RECOVERED or ENDED when all of it is over."""
    still = {notice.alert.severity for notice in message.notices if notice.event not in OVER}
    over = "RECOVERED" if any(notice.event == "recovered" for notice in message.notices) else "ENDED"
    return "ERROR" if "ERROR" in still else "WARN" if still else over


def title(message: Message) -> str:
    """One line: what it is about, or how much of what when it is about several things."""
    if len(message.notices) == 1:
        return heading(message.notices[0])
    counts = Counter(_word(notice) for notice in message.notices)
    parts = ", ".join(
        f"{counts[word]} {word}" for word in ("ERROR", "WARN", "RECOVERED", "ENDED", "TEST") if counts[word]
    )
    return f"[{severity(message)}] {len(message.notices)} alerts: {parts}"


def heading(notice: Notice) -> str:
    """One line on one notice."""
    said = _EVENTS[notice.event]
    return f"[{_word(notice)}] {notice.alert.kind} {notice.alert.name}{f': {said}' if said else ''}"


def lines(notice: Notice, base: str) -> list[str]:
    """The rest of a notice: what, since when and how often, until when, what to do, and where to look."""
    alert = notice.alert
    often = f", seen {alert.count} times" if alert.count > 1 else ""
    flapped = f", {alert.flaps} times right in between" if alert.flaps else ""
    found = [alert.what, f"Since {both_times(alert.since)}{often}{flapped}."]
    if notice.event == "recovered":
        found.append(f"Right again since {both_times(alert.recovered or alert.last_seen)}.")
    elif alert.what_to_do and notice.event != "ended":
        found.append(f"What to do: {alert.what_to_do}")
    return [*(line for line in found if line), link(base, notice)]


def text(message: Message, base: str) -> str:
    """The whole message as plain text."""
    parts = ["\n".join([heading(notice), *lines(notice, base)]) for notice in message.notices]
    return "\n\n".join([*parts, *([lost(message)] if message.lost else [])]) + "\n"


def lost(message: Message) -> str:
    """What to say of messages that had no room in the queue."""
    return f"{message.lost} earlier messages could not be kept while this channel was down: see logs/alerts.log."


def data(message: Message, base: str) -> dict[str, Any]:
    """The message for machines; a message that comes twice has the same `id`."""
    return {
        "id": message.id,
        "at": _iso(message.at),
        "title": title(message),
        "severity": severity(message),
        "text": text(message, base),
        "lost": message.lost,
        "alerts": [_data(notice, base) for notice in message.notices],
    }


def both_times(moment: datetime) -> str:
    """A moment in UTC and in Brasília."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({moment.astimezone(ZONE):%d/%m %H:%M} Brasília)"


def _data(notice: Notice, base: str) -> dict[str, Any]:
    alert = notice.alert
    return {
        "event": notice.event,
        "key": alert.key,
        "kind": alert.kind,
        "name": alert.name,
        "severity": alert.severity,
        "what": alert.what,
        "what_to_do": alert.what_to_do,
        "since": _iso(alert.since),
        "until": _iso(alert.recovered) if notice.event == "recovered" and alert.recovered else None,
        "count": alert.count,
        "flaps": alert.flaps,
        "link": link(base, notice),
    }


def _word(notice: Notice) -> str:
    return {"recovered": "RECOVERED", "ended": "ENDED", "test": "TEST"}.get(notice.event, notice.alert.severity)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
