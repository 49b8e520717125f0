"""Small made-up payloads for tests of loading: readings of the dollar index, given as plain tuples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from b3_pipeline.loading.payloads import Payload
from b3_pipeline.parsing.kinds import Kind, Parsing
from b3_pipeline.parsing.records import Chunk, FileRejected, Reason, Reject, record_schema
from b3_pipeline.tables import TABLES, Table

TICKS = TABLES["b3_dxy_ticks"]
START = datetime(2025, 10, 13, 11, 50)
NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


@dataclass(frozen=True)
class Tick:
    """A record: `minute` after START, its bucket and its value."""

    minute: int
    bucket: str
    value: float

    @property
    def ts(self) -> datetime:
        return START + timedelta(minutes=self.minute)

    @property
    def key(self) -> tuple[datetime, str]:
        return self.ts, self.bucket


def records(ticks: Iterable[Tick], first_line: int = 2) -> pa.Table:
    """The ticks as a parser would give them, one a line."""
    rows = [
        {
            "ts": tick.ts,
            "bucket": tick.bucket,
            "value": tick.value,
            "status": "sucesso",
            "provider": None,
            "_line": None,
            "_column": tick.bucket,
            "_text": f"line {line}",
        }
        for line, tick in enumerate(ticks, first_line)
    ]
    return pa.Table.from_pylist(rows, schema=record_schema(TICKS))


@dataclass(frozen=True)
class Content:
    """What a made-up payload holds, besides its good records."""

    ticks: tuple[Tick, ...] = ()
    rejects: int = 0
    absent: int = 0
    broken: bool = False
    chunk: int = 1_000

    def to_bytes(self) -> bytes:
        rows = [[t.minute, t.bucket, t.value] for t in self.ticks]
        return json.dumps([rows, self.rejects, self.absent, self.broken, self.chunk]).encode()

    @classmethod
    def of(cls, data: bytes) -> Content:
        rows, *rest = json.loads(data)
        return cls(tuple(Tick(*row) for row in rows), *rest)


def _chunks(content: Content) -> Iterator[Chunk]:
    reject = Reject(None, "value", "a bad one", Reason.BAD_NUMBER, "bad")
    for start in range(0, len(content.ticks), content.chunk) or [0]:
        first = start == 0
        yield Chunk(
            records(content.ticks[start : start + content.chunk], start + 2),
            [reject] * content.rejects if first else [],
            content.absent if first else 0,
        )


def _parse(stream: BinaryIO, _table: Table) -> Parsing:
    content = Content.of(stream.read())
    if content.broken:
        raise FileRejected("this is not what its name says")
    return Parsing(_chunks(content))


KIND = Kind("ticks", "ticks.json", "made-up ticks", "legacy_csv", (TICKS.name,), _parse)


def payload(folder: Path, *ticks: Tick, name: str = "ticks.json", feed: str = "legacy_csv", **content: Any) -> Payload:
    """A payload on disk that parses to these ticks."""
    data = Content(ticks, **content).to_bytes()
    path = folder / name
    path.write_bytes(data)
    return Payload(name, path, replace(KIND, feed=feed), hashlib.sha256(data).hexdigest(), len(data))
