"""The last parity report of a home, as pages and gates read it: what `b3 validate --json` says, and when it was made.

Its `checks` lead from a table and feed to partitions, and in each to the first offending keys with both values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from b3_pipeline.credentials import write_private


def path_of(home: Path) -> Path:
    """Where the last report lies."""
    return home / "parity" / "last.json"


def keep(home: Path, report_document: Mapping[str, Any], at: datetime) -> None:
    """Keeps `Report.document()` as the home's last, made at a moment (aware). Raises OSError."""
    path = path_of(home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    document = {"at": at.isoformat(), **report_document}
    write_private(path, json.dumps(document, ensure_ascii=False, default=_plain))


def stands(folder: Path | None, legacy_dir: Path | None, tolerance: int = 0) -> bool:
    """Whether a report is one of the home: its source is the home's own legacy folder, and nothing is forgiven."""
    given, own = (path and path.expanduser().resolve() for path in (folder, legacy_dir))
    return given == own and tolerance == 0


def latest(home: Path) -> dict[str, Any] | None:
    """The last report, with `at` (ISO 8601); None when there is none that can be read."""
    try:
        document = json.loads(path_of(home).read_text("utf-8"))
        return document if datetime.fromisoformat(document["at"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Proved:
    """What a report says of a table and feed: its numbers, and by partition what was wrong (see `drill`)."""

    table: str
    feed: str
    passed: bool
    numbers: Mapping[str, int]
    partitions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Proof:
    """When the last proof was made, whether every check of severity ERROR passed, and each table with its feeds."""

    at: datetime
    ok: bool
    feeds: Sequence[Proved]


def proof(home: Path) -> Proof | None:
    """The last report by table and feed; None when there is none that can be read."""
    document = latest(home)
    if document is None:
        return None
    try:
        return Proof(datetime.fromisoformat(document["at"]), document["ok"], list(_proved(document)))
    except (KeyError, TypeError, AttributeError):  # of another release
        return None


def _proved(document: Mapping[str, Any]) -> Iterator[Proved]:
    """Each table and feed with a source or rows."""
    checks = {(check["table"], check["check"]): check for check in document["checks"]}
    for table, feeds in document["tables"].items():
        for feed, numbers in feeds.items():
            check = checks[table, f"parity_{feed}"]
            yield Proved(table, feed, check["passed"], numbers, check["partitions"])


def _plain(value: object) -> str:
    """Moments without a zone are UTC."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return f"{value.isoformat()}Z"
    return value.isoformat() if isinstance(value, date) else str(value)
