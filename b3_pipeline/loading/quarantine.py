"""Rejected records and files, kept: one JSON-lines file a load under `B3_HOME/quarantine`, readable without a server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.parsing.records import Reject


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

    def listed(self) -> dict[str, Any]:
        """The entry as `b3 quarantine list --json` shows it."""
        return {k: getattr(self, k) for k in ("id", "table", "file", "line", "column", "text", "reason")}


class Quarantine:
    """The folder of rejects. A load writes its file beside its place and moves it there when the load is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, load_id: int, table: str, feed: str, file: str, sha256: str) -> LoadRejects:
        """Where one load puts its rejects. What an interrupted attempt of the same load left is started over."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return LoadRejects(self.folder / f"{load_id}.jsonl", load_id, table, feed, file, sha256)

    def has(self, load_id: int) -> bool:
        """Whether a load's rejects are kept here."""
        return (self.folder / f"{load_id}.jsonl").exists()

    def entries(self) -> Iterator[Entry]:
        """All rejects, by load. Raises Damaged when a file cannot be read."""
        for path in sorted(self.folder.glob("*.jsonl")):
            yield from _read(path)

    def find(self, entry_id: str) -> Entry | None:
        """The reject of an id, `<load id>-<number>`."""
        path = self.folder / f"{entry_id.rpartition('-')[0]}.jsonl"
        if path.parent != self.folder or not path.is_file():
            return None
        return next((entry for entry in _read(path) if entry.id == entry_id), None)

    def keep_file(self, payload: Payload) -> Path:
        """Keeps a copy of a payload that was rejected whole; returns where. Raises PayloadChanged when it changed."""
        kept = self.folder / "files" / f"{payload.sha256[:16]}-{Path(payload.name).name}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            part = kept.with_name(f"{kept.name}.part")
            with payload.raw() as source, part.open("wb") as target:
                shutil.copyfileobj(source, target)
            part.replace(kept)
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

    def __init__(self, path: Path, load_id: int, table: str, feed: str, file: str, sha256: str) -> None:
        self.path, self.count = path, 0
        self._load_id = load_id
        self._common = {"table": table, "feed": feed, "file": file, "sha256": sha256}
        self._part = path.with_suffix(".part")
        self._out: IO[str] | None = None

    def add(self, rejects: list[Reject]) -> None:
        """Appends rejects in the given order."""
        if rejects and self._out is None:
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
