"""From a count to the rows behind it: what parity found, by partition (the session of a row's local day), with first keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from b3_pipeline.sessions import sessions_of, to_local

#: Rows of a problem that a partition shows, and how many partitions show any; the counts are exact whatever they are.
ROWS, PARTITIONS = 5, 200
PROBLEMS = ("missing", "extra", "different")


@dataclass
class Drill:
    """Problems by session: how many, and the first rows."""

    _found: dict[str, dict[str, Any]] = field(default_factory=dict)
    _shown: int = 0

    def count(self, problem: str, moments: np.ndarray) -> None:
        """Counts a problem at each of some moments (datetime64, UTC)."""
        sessions, counts = np.unique(sessions_at(moments), return_counts=True)
        for session, number in zip(sessions.tolist(), counts.tolist(), strict=True):
            self._of(session.isoformat())[problem] += number

    def show(self, problem: str, moments: np.ndarray, rows: Callable[[np.ndarray], list[dict[str, Any]]]) -> None:
        """Keeps the first rows of a problem in each session; `rows` gives those at some places among the moments."""
        sessions = sessions_at(moments)
        distinct, which = np.unique(sessions, return_inverse=True)
        room = np.array([self._room(problem, session.isoformat()) for session in distinct.tolist()], int)
        order = np.argsort(which, kind="stable")
        rank = np.arange(len(order)) - np.searchsorted(which[order], which[order])
        places = np.sort(order[rank < room[which[order]]])
        for place, row in zip(places.tolist(), rows(places), strict=True):
            self._of(sessions[place].item().isoformat())["rows"].append({"problem": problem, **row})

    def told(self) -> list[dict[str, Any]]:
        """A document for each partition with a problem, in time's order: its name, its counts, its first rows."""
        return [{"partition": session, **found} for session, found in sorted(self._found.items())]

    def _of(self, session: str) -> dict[str, Any]:
        return self._found.setdefault(session, {**dict.fromkeys(PROBLEMS, 0), "rows": []})

    def _room(self, problem: str, session: str) -> int:
        rows = self._of(session)["rows"]
        if not rows:
            if self._shown == PARTITIONS:
                return 0
            self._shown += 1
        return ROWS - sum(row["problem"] == problem for row in rows)


def sessions_at(moments: np.ndarray) -> np.ndarray:
    """The sessions of the local days of many moments: datetime64 (UTC) to datetime64[D]."""
    hours, which = np.unique(moments.astype("datetime64[h]"), return_inverse=True)  # zones lie whole hours apart
    days = np.array([to_local(hour).date() for hour in hours.tolist()], "datetime64[D]")
    return sessions_of(days)[which] if len(days) else days
