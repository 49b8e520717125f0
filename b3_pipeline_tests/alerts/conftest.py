"""What tests of alerts share: conditions, a clock that is turned by hand, channels that keep what they get."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from b3_pipeline.alerts.channels import Undelivered
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.engine import Message
from b3_pipeline.settings import Severity

NOON = datetime(2025, 10, 14, 15, 0, tzinfo=UTC)
PARITY = "b3_adjustments:parity_settlements"


def condition(red: bool, name: str = PARITY, **given: Any) -> Condition:
    """A condition on a check, red or green."""
    said = {"kind": "check", "name": name, "red": red, "what": "3 keys are missing.", "at": NOON} | given
    return Condition.model_validate(said)


class Clock:
    """Real time and a monotonic clock in one, which stand still until they are turned."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def turn(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Kept:
    """A channel that keeps its messages; while it is `down` it takes none. `wrong`: why not all got the last one."""

    name: str = "kept"
    min_severity: Severity = "WARN"
    renew_s: float | None = None
    down: bool = False
    refuses: bool = False
    wrong: str | None = None
    got: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> str | None:
        if self.down:
            raise Undelivered("it is down", refused=self.refuses)
        self.got.append(message)
        return self.wrong

    @property
    def events(self) -> list[str]:
        """What it was told, in order: event and name."""
        return [f"{notice.event} {notice.alert.name}" for message in self.got for notice in message.notices]
