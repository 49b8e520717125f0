"""What alerts are made of: a condition is one fact about one thing, red or green, at a moment."""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from b3_pipeline.settings import Severity

Kind = Literal["check", "run", "sensor", "service", "source", "disk", "channel"]
TEXT_LIMIT = 1_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def one_line(given: object) -> object:
    """A text as it may stand in a message: without line ends and control characters, not longer than `TEXT_LIMIT`."""
    if not isinstance(given, str):
        return given
    clean = _CONTROL.sub(" ", given).strip()
    return clean if len(clean) <= TEXT_LIMIT else clean[: TEXT_LIMIT - 1] + "…"


Text = Annotated[str, BeforeValidator(one_line)]


class Condition(BaseModel, frozen=True, extra="forbid"):
    """A fact. `name` tells things of a kind apart (a check: `table:check`, a run: its job and what was chosen of it),
    and stays the same while the thing does. `what` is one sentence, `link` a path in the Dagster UI, `at` when it was
    seen. `ends_after_s`: what nobody may ever repeat is no alert any more after so long.

    A condition that is given again under the same `id` changes nothing. No secret belongs in any of it.
    """

    kind: Kind
    name: Annotated[Text, Field(min_length=1, max_length=200)]
    red: bool
    what: Text
    at: AwareDatetime
    severity: Severity = "ERROR"
    what_to_do: Text = ""
    link: Text = "/"
    ends_after_s: float | None = None
    id: str = Field(default_factory=lambda: uuid.uuid4().hex, min_length=1, max_length=100)

    @property
    def key(self) -> str:
        """What the condition is about."""
        return f"{self.kind}:{self.name}"
