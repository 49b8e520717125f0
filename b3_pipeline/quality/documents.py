"""The documents kept in `b3_captures`: what they are, and which of them prove themselves.

A document proves itself when its bytes hash to its row's SHA-256, the ledger knows a load of that SHA-256 under the row's
id, and the document itself says that it is of the row's moment. Only then it stands in for a file that is gone.
"""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from b3_pipeline.loading.payloads import Payload
from b3_pipeline.parsing.kinds import MARKET_KINDS, Kind
from b3_pipeline.parsing.records import Chunk, FileRejected
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.stored import during, of_feed, stretches
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import TABLES, Table

CAPTURES = TABLES["b3_captures"]
#: The kinds of payload that are kept as documents.
DOCUMENT_KINDS = tuple(kind for kind in MARKET_KINDS if CAPTURES.name in kind.tables)
#: Documents fetched at once: most have some 2 KB, none more than 8 MB.
_AT_ONCE = 500
_SMALL = 16 << 10


@dataclass(frozen=True)
class Document:
    """A row of `b3_captures`: `file` is the name that its load had, None when the ledger knows no such load.

    `text` and `sha256` are None where somebody has made them null.
    """

    ts: datetime
    endpoint: str
    text: str | None
    sha256: str | None
    feed: str
    load_id: int | None
    file: str | None

    @property
    def key(self) -> tuple[str, datetime]:
        return self.endpoint, self.ts

    def data(self) -> bytes | None:
        """The bytes as received; None when the text does not give the row's SHA-256 in any encoding that we read."""
        for encode in (_utf8, _utf8_with_mark, _latin1):
            data = None if self.text is None else encode(self.text)
            if data is not None and hashlib.sha256(data).hexdigest() == self.sha256:
                return data
        return None

    def payload(self) -> Payload | None:
        """The document as the payload that it was; None when it does not prove itself."""
        data = self.data()
        if data is None or self.file is None or self.sha256 is None:
            return None
        for kind in DOCUMENT_KINDS:
            payload = Payload(self.file, Path(self.file), kind, self.sha256, len(data), data)
            if self.key in keys(payload):
                return payload
        return None


def documents_of(context: Context, feed: str, window: Window = ALWAYS) -> Iterator[Document]:
    """The documents of a feed in a window, in time's order, in bounded memory."""
    query = named(
        "select {c}.ts, {c}.endpoint, {c}.payload, {c}.sha256, {c}.feed, {c}.load_id, l.file from {c} left join "
        "(select load_id, sha256, file from b3_loads where table_name = %s) l on (load_id, sha256) where ",
        c=CAPTURES.name,
    )
    for stretch, rows in stretches(context.db, CAPTURES, _AT_ONCE, window, of_feed(feed)):
        if rows:
            where = during(CAPTURES, stretch) & of_feed(feed)
            for row in context.db.query(query + where.text + named(" order by ts"), CAPTURES.name, *where.values):
                yield Document(*row)


def keys(payload: Payload) -> set[tuple[str, datetime]]:
    """(endpoint, moment) of the documents that a payload gives; none when it cannot be read."""
    try:
        with payload.open() as stream:
            chunks = parsed(payload.kind, stream.read(), CAPTURES)
    except FileRejected:
        return set()
    rows = (row for chunk in chunks for row in chunk.records.select(["endpoint", "ts"]).to_pylist())
    return {(row["endpoint"], row["ts"]) for row in rows}


def parsed(kind: Kind, data: bytes, table: Table) -> list[Chunk]:
    """What a document's bytes hold for a table. Raises FileRejected.

    Those of small documents are remembered: each tick proves the last sessions again, and their bytes are as they were.
    """
    if len(data) <= _SMALL:
        return list(_remembered(kind, data, table.name))
    return list(kind.parse(io.BytesIO(data), table).chunks)


@lru_cache(maxsize=4_000)
def _remembered(kind: Kind, data: bytes, table: str) -> tuple[Chunk, ...]:
    return tuple(kind.parse(io.BytesIO(data), TABLES[table]).chunks)


def _utf8(text: str) -> bytes:
    return text.encode()


def _utf8_with_mark(text: str) -> bytes:
    return codecs.BOM_UTF8 + text.encode()


def _latin1(text: str) -> bytes | None:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return None


def of_rows(rows: list[dict[str, Any]]) -> dict[datetime, list[dict[str, Any]]]:
    """Rows by their moment."""
    moments: dict[datetime, list[dict[str, Any]]] = {}
    for row in rows:
        moments.setdefault(row["ts"], []).append(row)
    return moments
