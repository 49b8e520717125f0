"""Signals that a program hands in: each is judged by the rules of the files, and the good ones are archived before anybody is told."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from b3_pipeline.errors import B3Error
from b3_pipeline.metrics import instruments
from b3_pipeline.parsing.json_text import Array, Json, Object, decode
from b3_pipeline.parsing.kinds import SIGNALS as KIND
from b3_pipeline.parsing.records import LINE, FileRejected, Reason
from b3_pipeline.parsing.tp_capital import MEMBERS, parse_lines
from b3_pipeline.signals.active import SIGNALS
from b3_pipeline.signals.hiding import HIDDEN, dump, sealed
from b3_pipeline.sources.archive import Archive, ArchiveDamaged
from b3_pipeline.sources.inbox import CONTENT_TYPE

#: Signals in one request.
MOST = 1_000
#: Characters of a text of a signal's key: no more can be asked for.
LONGEST = 100
#: Entries among which the one of an equal request is looked for.
_LOOK_BACK = 1_000
_VALUES = tuple(column.name for column in SIGNALS.values)

Row = Mapping[str, Any]


class BadBatch(B3Error):
    """What was handed in is no signal and no list of signals."""


@dataclass(frozen=True)
class Judged:
    """What becomes of one signal. Of a rejected one `pointer` leads into what was handed in."""

    outcome: Literal["accepted", "duplicate", "rejected"]
    reason: Reason | None = None
    pointer: str | None = None


@dataclass(frozen=True)
class Batch:
    """What was handed in: each signal as one line without secrets; and its row, or why it cannot have one."""

    lines: tuple[bytes, ...]
    found: tuple[Row | Judged, ...]

    @property
    def rows(self) -> list[Row]:
        """The rows of those that can be stored."""
        return [one for one in self.found if not isinstance(one, Judged)]


def read(body: bytes) -> Batch:
    """The signals in a body: one object, or a list of them. Raises BadBatch, whose text has nothing of the body in it."""
    try:
        root = decode(body).root
    except FileRejected:
        raise BadBatch("The body is no JSON in which each key stands once, or is nested too deeply.") from None
    if not isinstance(root, Object | Array):
        raise BadBatch("The body is neither a signal (an object) nor a list of signals.")
    given = root if isinstance(root, Array) else Array([root])
    if not 0 < len(given) <= MOST:
        raise BadBatch(f"The list has {len(given)} signals: at least one, and at most {MOST}, may be given at once.")
    lines = tuple(dump(one).encode() for one in sealed(given, "", lambda _bot, _token: HIDDEN))
    return Batch(lines, tuple(_read(lines, root)))


def _read(lines: Sequence[bytes], root: Json) -> list[Row | Judged]:
    """Each line by the rules of the files; pointers lead into the body, which is an object or a list."""
    chunk = next(parse_lines(io.BytesIO(b"\n".join(lines)), SIGNALS))
    within = [f"/{place}" if isinstance(root, Array) else "" for place in range(len(lines))]
    found: dict[int, Row | Judged] = {}
    for row in chunk.records.to_pylist():
        place = row[LINE] - 1
        found[place] = _too_long(row, within[place]) or row
    for reject in chunk.rejects:
        assert reject.line is not None, "what has lines says on which one"
        place = reject.line - 1
        found[place] = Judged("rejected", reject.reason, f"{within[place]}{reject.column or ''}")
    return [found[place] for place in range(len(lines))]


def _too_long(row: Row, within: str) -> Judged | None:
    """What becomes of a signal whose key nobody could ask for."""
    for name in SIGNALS.keys:
        if isinstance(text := row[name], str) and len(text) > LONGEST:
            return Judged("rejected", Reason.BAD_TEXT, f"{within}/{MEMBERS.get(name, name)}")
    return None


def judged(batch: Batch, stored: Iterable[Row]) -> list[Judged]:
    """What becomes of each signal, when these are stored: the first of a key stands, equal ones are duplicates."""
    standing = {_key(row): _values(row) for row in stored}
    found = []
    for place, one in enumerate(batch.found):
        if isinstance(one, Judged):
            found.append(one)
            continue
        before = standing.setdefault(_key(one), values := _values(one))
        if before is values:
            found.append(Judged("accepted"))
        elif before == values:
            found.append(Judged("duplicate"))
        else:
            found.append(Judged("rejected", Reason.CONFLICTING_DUPLICATE, f"/{place}" if len(batch.lines) > 1 else ""))
    return found


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in SIGNALS.keys)


def _values(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _VALUES)


def keep(archive: Archive, batch: Batch, found: Sequence[Judged], at: datetime) -> int | None:
    """Archives the accepted signals, and gives their entry's number; it is safe on disk then.

    The same signals once more have the entry that they had: None where that one is gone, or nothing was accepted.
    Raises ArchiveFailed: then nothing is acknowledged.
    """
    lines = [line for line, one in zip(batch.lines, found, strict=True) if one.outcome == "accepted"]
    if not lines:
        return None
    content = b"".join(line + b"\n" for line in lines)
    name = f"api-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    entry = archive.append(KIND.name, content, name=name, at=at, url="api:signals", content_type=CONTENT_TYPE)
    if entry is None:
        return _seq_of(archive, name)
    instruments.appended(KIND.name, entry.size)
    return entry.seq


def _seq_of(archive: Archive, name: str) -> int | None:
    last = archive.last(KIND.name)
    for seq in range(last, max(0, last - _LOOK_BACK), -1):
        try:
            entry = archive.entry(KIND.name, seq)
        except ArchiveDamaged:
            continue
        if entry and entry.name == name:
            return seq
    return None
