"""Rejected records and files, kept: one JSON-lines file a load under `B3_HOME/quarantine`, readable without a server."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error
from b3_pipeline.loading.kept import copy
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.parsing.csv_rows import open_rows
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.parsing.records import Reject

#: What the name of a correction begins with.
PREFIX = "replay:"
#: Kinds whose records can be corrected and replayed, by name; the others are given anew by whoever made them.
_KINDS = {kind.name for kind in LEGACY_KINDS}


class Damaged(B3Error):
    """A file of rejects was changed by somebody else."""


@dataclass(frozen=True)
class Entry:
    """A rejected record: where it came from, what it said, and why it was not stored.

    `line` counts from 1 and is None where a payload has no lines; `text` is the raw record, `value` the cell at fault;
    `record` tells apart the records of one line.
    """

    id: str
    table: str
    feed: str
    file: str
    sha256: str
    line: int | None
    column: str | None
    text: str
    value: str | None
    reason: str
    record: str | None
    header: str | None = None  # the header of a CSV, without which nobody can read `text`

    @property
    def key(self) -> str:
        """The same for the same record wherever it is rejected again: in a file that grew, or under a second name.

        A record of a document is known by the document, for its text may stand in others too; a line of a correction
        by the correction, for its lines are counted anew.
        """
        place = self.line
        if self.line is None or self.file.startswith(PREFIX):
            place = self.sha256 if self.line is None else [self.sha256, self.line]
        what = json.dumps([self.table, self.feed, place, self.column, self.record, self.text])
        return hashlib.sha256(what.encode()).hexdigest()

    @property
    def load_id(self) -> int:
        """The load that rejected it."""
        return int(self.id.rpartition("-")[0])

    def listed(self) -> dict[str, Any]:
        """The entry as `b3 quarantine list --json` shows it."""
        return {k: getattr(self, k) for k in ("id", "table", "file", "line", "column", "text", "reason")}


class Quarantine:
    """The folder of rejects. A load writes its file beside its place and moves it there when the load is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(
        self, load_id: int, table: str, feed: str, file: str, sha256: str, payload: Payload | None = None
    ) -> LoadRejects:
        """Where one load puts its rejects. What an interrupted attempt of the same load left is started over.

        With the payload, what is needed to load corrected records later is kept, too: a CSV's header in its entries, a
        legacy document as a whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        common = {"table": table, "feed": feed, "file": file, "sha256": sha256}
        return LoadRejects(self.folder / f"{load_id}.jsonl", load_id, common, partial(self._context, payload))

    def _context(self, payload: Payload | None) -> str | None:
        """Keeps what leads from a payload's rejects to a correction; returns the header of a CSV."""
        if payload is None or payload.kind.name not in _KINDS:
            return None
        if payload.kind.whole:
            self.keep_file(payload)
            return None
        with payload.raw() as stream:
            rows = open_rows(stream)
        line = io.StringIO()
        csv.writer(line, delimiter=rows.separator, lineterminator="").writerow(rows.header)
        return line.getvalue()

    def has(self, load_id: int) -> bool:
        """Whether a load's rejects are kept here."""
        return (self.folder / f"{load_id}.jsonl").exists()

    def entries(self) -> Iterator[Entry]:
        """All rejects, by load. Raises Damaged when a file cannot be read."""
        for path in sorted(self.folder.glob("*.jsonl")):
            yield from _read(path)

    def open_entries(self) -> Iterator[Entry]:
        """The rejects that nobody has replayed, by load. Raises Damaged when a file cannot be read."""
        replayed = self.replayed()
        return (entry for entry in self.entries() if entry.key not in replayed)

    def replayed(self) -> dict[str, int]:
        """The keys of replayed entries, each with the load that took it over."""
        marks = sorted((self.folder / "replays").glob("*.json"), key=lambda path: int(path.stem))
        return {key: int(path.stem) for path in marks for key in json.loads(path.read_text("utf-8"))}

    def mark_replayed(self, entries: Iterable[Entry], load_id: int) -> None:
        """Notes that a load took these entries over: it has loaded them, or rejected them once more as its own."""
        file = self.folder / "replays" / f"{load_id}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(file.read_text("utf-8")) if file.exists() else []
        write_private(file, json.dumps(sorted({*before, *(entry.key for entry in entries)})))

    def kept_file(self, sha256: str) -> Path | None:
        """The copy of the payload with this hash, where one is kept."""
        return next((self.folder / "files").glob(f"{sha256[:16]}-*"), None)

    def find(self, entry_id: str) -> Entry | None:
        """The reject of an id, `<load id>-<number>`."""
        path = self.folder / f"{entry_id.rpartition('-')[0]}.jsonl"
        if path.parent != self.folder or not path.is_file():
            return None
        return next((entry for entry in _read(path) if entry.id == entry_id), None)

    def keep_file(self, payload: Payload) -> Path:
        """Keeps a copy of a payload; returns where. Raises PayloadChanged when it changed."""
        kept = self.folder / "files" / f"{payload.sha256[:16]}-{Path(payload.name).name}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            copy(payload, kept)
        return kept


def _read(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Entry(**json.loads(line))
            except (ValueError, TypeError):
                raise Damaged(
                    f"{path} is damaged at line {number}. Delete it and run the migration again: it is then written anew."
                ) from None


class LoadRejects:
    """The rejects of one load, written as they come, in bounded memory."""

    def __init__(
        self, path: Path, load_id: int, common: Mapping[str, Any], context: Callable[[], str | None] = lambda: None
    ) -> None:
        self.path, self.count = path, 0
        self._load_id, self._common, self._context = load_id, dict(common), context
        self._part = path.with_suffix(".part")
        self._out: IO[str] | None = None

    def add(self, rejects: list[Reject]) -> None:
        """Appends rejects in the given order."""
        if rejects and self._out is None:
            self._common["header"] = self._context()
            self._out = self._part.open("w", encoding="utf-8")
        for reject in rejects:
            self.count += 1
            entry = Entry(id=f"{self._load_id}-{self.count}", **self._common, **asdict(reject))
            assert self._out is not None
            self._out.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")

    def keep(self) -> None:
        """Makes the rejects of this load durable and visible; takes away those of an earlier attempt."""
        if self._out is None:
            for old in (self.path, self._part):
                old.unlink(missing_ok=True)
            return
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        self._part.replace(self.path)

    def drop(self) -> None:
        """Forgets what was written: the load did not come to its end."""
        if self._out is not None:
            self._out.close()
            self._part.unlink(missing_ok=True)
