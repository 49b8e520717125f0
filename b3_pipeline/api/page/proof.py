"""What `/paridade` shows of the tables: the last proof against their sources, from table and feed down to the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from b3_pipeline.quality import parity_report
from b3_pipeline.quality.parity_report import Proved

#: What can be wrong with a key, as the desk reads it.
PROBLEMS: Mapping[str, str] = {"missing": "falta", "extra": "sobra", "different": "difere"}
#: Those members of a row that are no part of its key.
_NO_KEY = {"problem", "feed", "column", "source_value", "stored_value", "file", "line"}


@dataclass(frozen=True)
class Row:
    """A key that is not as its source says: what is wrong, and of another value both."""

    problem: str
    key: str
    column: str
    source_value: str
    stored_value: str
    origin: str


@dataclass(frozen=True)
class Partition:
    """What is wrong in a session, counted, and the first rows."""

    session: date
    counts: Mapping[str, int]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Feed:
    """A table's rows of a feed against their sources."""

    table: str
    name: str
    passed: bool
    numbers: Mapping[str, int]
    partitions: Sequence[Partition]


@dataclass(frozen=True)
class Proof:
    """The last proof: when it was made, whether all was well, and each table and feed."""

    at: datetime
    ok: bool
    feeds: Sequence[Feed]


def proof_of(home: Path) -> Proof | None:
    """The last proof of a home; None when there is none that can be read."""
    kept = parity_report.proof(home)
    return None if kept is None else Proof(kept.at, kept.ok, [_feed(one) for one in kept.feeds])


def _feed(one: Proved) -> Feed:
    partitions = [
        Partition(
            date.fromisoformat(found["partition"]),
            {problem: found[problem] for problem in PROBLEMS},
            [_row(row) for row in found["rows"]],
        )
        for found in one.partitions
    ]
    return Feed(one.table, one.feed, one.passed, one.numbers, partitions)


def _row(row: Mapping[str, Any]) -> Row:
    key = " · ".join(_text(value) for name, value in row.items() if name not in _NO_KEY)
    differs = row["problem"] == "different"
    source, stored = (_text(row.get(name)) if differs else "" for name in ("source_value", "stored_value"))
    line = f", linha {row['line']}" if row.get("line") is not None else ""
    return Row(PROBLEMS[row["problem"]], key, row.get("column", ""), source, stored, f"{row.get('file', '')}{line}")


def _text(value: object) -> str:
    """A value as it is stored, a number in all its digits: a rounded one would hide what differs."""
    if value is None:
        return "(vazio)"
    return repr(value).replace(".", ",") if isinstance(value, float) else str(value)
