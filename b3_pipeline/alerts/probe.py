"""`b3 doctor --alerts`: a test message to every channel, and whether it got through."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from b3_pipeline.alerts.channels import Undelivered, configured
from b3_pipeline.alerts.engine import Alert, Message, Notice
from b3_pipeline.settings import Settings


def test_channels(settings: Settings) -> list[tuple[str, bool, str]]:
    """Sends a test to every channel of the settings, also below its least severity: (channel, whether all got it, why not)."""
    channels, problems = configured(settings)
    message = _test_message(datetime.now(UTC))
    found = []
    for channel in channels:
        try:
            wrong = channel.send(message)
        except Undelivered as error:
            wrong = str(error)
        found.append((channel.name, not wrong, wrong or ""))
    return [*found, *((name, False, why) for name, why in problems.items())]


def _test_message(now: datetime) -> Message:
    alert = Alert(
        kind="channel",
        name="test",
        severity="WARN",
        what="This is a test of the alerts of b3_pipeline: this channel works.",
        what_to_do="Nothing.",
        link="/",
        since=now,
        opened=now,
        reminded=now,
        last_seen=now,
    )
    return Message(id=uuid.uuid4().hex, at=now, notices=[Notice(event="test", alert=alert, channels=[])])
