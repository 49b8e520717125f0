"""How many of the points at which something can be killed are tried: a few here, each of them by `make faults`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

#: How often something is killed in the long form; 0 in the short one.
FAULTS = int(os.environ.get("B3_FAULTS", "0"))
_T = TypeVar("_T")


def some(steps: Sequence[_T], few: int = 2) -> list[_T]:
    """All steps in the long form; in the short one so many of them, spread evenly from the first to the last."""
    if FAULTS or len(steps) <= few:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (few - 1))] for i in range(few)]
