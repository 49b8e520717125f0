"""What a check is given and what it says: the words that all of `quality/` shares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from b3_pipeline.capture_differences import Comparison
from b3_pipeline.errors import B3Error
from b3_pipeline.loading.buckets import IN_MEMORY
from b3_pipeline.loading.load import quiet
from b3_pipeline.loading.payloads import Found
from b3_pipeline.postgres.known_gaps import GapKey
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import Window, session_of, to_local
from b3_pipeline.sources.catalog import Source
from b3_pipeline.tables import Table

#: Rows that a finding shows; its counts are exact whatever they are.
SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """What a check found. `offending` are at most `SHOWN` rows with the table's keys by name.

    `partition` in them is the session of the row's local day, ISO. `advice` says what to do; it is empty when passed.
    `undecided`: not passed, for there was nothing to judge by, which is not known to be wrong. `partitions` is what parity
    found, by partition (see `drill`).
    """

    passed: bool
    numbers: dict[str, int | float | str] = field(default_factory=dict)
    offending: list[dict[str, Any]] = field(default_factory=list)
    advice: str = ""
    undecided: bool = False
    partitions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Context:
    """What checks look at. `now` is UTC; `files` are the sources at hand, of every kind (see `sources.at_hand`).

    `expired` says by table which times a retention has taken away, `expired_rows` how many rows of which load (0 where
    rows name none), `known_gaps` by feed in which times nothing is
    missed, `marked_gaps` which gaps nobody can fill. `live` are the sources that are collected, `shadow` is
    the folder of our shadow files while they are written, `compared` gives the last comparisons of captures, which
    are made unless `phase` (of the market data) is legacy. `tolerance` is how many keys parity forgives. `progress` is
    told the bytes of payload read since the last call. `limit` bounds the rows in memory.
    """

    db: QuestDB
    home: Path
    now: datetime
    files: Sequence[Found] = ()
    tolerance: int = 0
    expired: Mapping[str, Sequence[Window]] = field(default_factory=dict)
    expired_rows: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    known_gaps: Mapping[str, Sequence[Window]] = field(default_factory=dict)
    marked_gaps: Collection[GapKey] = frozenset()
    live: Sequence[Source] = ()
    shadow: Path | None = None
    compared: Callable[[], Sequence[Comparison]] = tuple
    phase: str = "legacy"
    progress: Callable[[int], None] = quiet
    limit: int = IN_MEMORY


def session(moment: datetime) -> str:
    """The partition of a moment (naive UTC): the session of its local day, ISO."""
    return session_of(to_local(moment).date()).isoformat()


def located(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its partition in front, where it has a moment."""
    moment = row.get(table.timestamp)
    return {"partition": session(moment) if moment is not None else "", **row}


def reason_of(error: Exception) -> str:
    """What to tell of an error that kept something from being looked at or repaired; one that is no B3Error is a defect."""
    if isinstance(error, B3Error | OSError):
        return str(error)
    return f"It ended with {type(error).__name__}: {error}. This is a defect: please report it."


def verdict(bad: int, numbers: Mapping[str, Any], offending: Iterable[dict[str, Any]], advice: str) -> Finding:
    """A finding that passes when nothing is bad; rows and advice are then left out."""
    return Finding(not bad, dict(numbers), list(offending)[:SHOWN] if bad else [], advice if bad else "")
