"""Whether the tables give every kept document back: rebuilt from their rows it is the same JSON, keys in the same order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, TypeVar

import numpy as np

from b3_pipeline.choosing import COMPOSED
from b3_pipeline.legacy_documents import capture_document, gamma_document
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, Kind
from b3_pipeline.parsing.records import FileRejected
from b3_pipeline.quality.documents import CAPTURES, Document, documents_of, of_rows, parsed
from b3_pipeline.quality.finding import SHOWN, Context, located
from b3_pipeline.quality.stored import during, feeds_stored, of_feed
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import Window
from b3_pipeline.tables import TABLES, Table

T = TypeVar("T")
#: Documents rebuilt together, from one query a table.
_AT_ONCE = 200
_CAPTURE_TABLES = tuple(TABLES[name] for name in ("b3_snapshots", "b3_indicators", "b3_vol_surface"))
_GAMMA_TABLES = (TABLES["b3_gamma_levels"],)


@dataclass(frozen=True)
class Form:
    """How the documents of an endpoint are read, and made again from the rows of some tables."""

    kind: Kind
    tables: tuple[Table, ...]
    build: Callable[..., Mapping[str, Any]]


FORMS: Mapping[str, Form] = {
    "ultimo-dado": Form(CAPTURE, _CAPTURE_TABLES, capture_document),
    "gamma": Form(GAMMA, _GAMMA_TABLES, gamma_document),
}


@dataclass
class Rebuilt:
    """How many documents were compared, how many differ, and how many hold what no table takes (`beyond`)."""

    compared: int = 0
    different: int = 0
    beyond: int = 0
    offending: list[dict[str, Any]] = field(default_factory=list)


def rebuild(context: Context, window: Window) -> Rebuilt:
    """Rebuilds every document of a window from the tables' rows of its feed and moment.

    Beyond the tables is a document with records that were rejected, or values that are absent, or no price at all, and
    one of which a retention has taken rows away. A composed one is left out: its blocks are of other moments, and stored
    under these.
    """
    result = Rebuilt()
    for feed in (feed for feed in feeds_stored(context.db, CAPTURES, window) if feed != COMPOSED):
        for documents in _batches(documents_of(context, feed, window), _AT_ONCE):
            _compare(context, documents, result)
    return result


def _compare(context: Context, documents: list[Document], result: Rebuilt) -> None:
    stretch = Window(documents[0].ts, documents[-1].ts + timedelta(microseconds=1))
    rows = {
        table.name: _rows(context, table, documents[0].feed, stretch)
        for form in FORMS.values()
        for table in form.tables
    }
    for document in documents:
        form = FORMS.get(document.endpoint)
        if form is None or _is_expired(context, form, document) or is_beyond(form, document):
            result.beyond += 1
            continue
        result.compared += 1
        if unlike := _unlike(form, document, [rows[table.name].get(document.ts, []) for table in form.tables]):
            pointer, wanted, found = unlike
            result.different += 1
            if len(result.offending) < SHOWN:
                row = {"ts": document.ts, "endpoint": document.endpoint, "feed": document.feed}
                more = {"column": pointer, "source_value": wanted, "stored_value": found}
                result.offending.append({**located(CAPTURES, row), **more})


def _is_expired(context: Context, form: Form, document: Document) -> bool:
    """Whether a retention has taken away rows that the document was made of."""
    windows = [window for table in form.tables for window in context.expired.get(table.name, ())]
    return any(window.mask(np.array([document.ts], "datetime64[us]"))[0] for window in windows)


def _unlike(form: Form, document: Document, rows: list[list[dict[str, Any]]]) -> tuple[str, Any, Any] | None:
    """Where a document and what its rows give first differ; text and rows that somebody has spoilt differ as a whole."""
    try:
        wanted = json.loads(document.text or "", parse_int=float)
    except (ValueError, RecursionError):
        return "", _short(document.text), "no document"
    try:
        built = _plain(form.build(document.ts, *rows))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return "", _short(wanted), f"rows that make no document: {type(error).__name__}"
    return first_difference(wanted, built)


def _rows(context: Context, table: Table, feed: str, window: Window) -> dict[datetime, list[dict[str, Any]]]:
    where = during(table, window) & of_feed(feed)
    columns = [c.name for c in table.parsed]
    query = named("select {columns} from {t} where ", columns=columns, t=table.name)
    schema = table.arrow_schema(table.parsed)
    return of_rows(context.db.arrow(query + where.text, *where.values, schema=schema).to_pylist())


def is_beyond(form: Form, document: Document) -> bool:
    """Whether the document, by its own parser, holds what the tables do not take."""
    try:
        chunks = [[*parsed(form.kind, (document.text or "").encode(), table)] for table in form.tables]
    except FileRejected:
        return False  # it cannot be what was received
    first = sum(chunk.records.num_rows for chunk in chunks[0])
    return not first or any(chunk.rejects or chunk.absent for table in chunks for chunk in table)


def first_difference(wanted: Any, found: Any, pointer: str = "") -> tuple[str, Any, Any] | None:
    """Where two JSON values first differ: (pointer, one, other); the order of keys counts. None when they are equal."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for (key, value), (other, twin) in zip(wanted.items(), found.items(), strict=False):
            if key != other:
                return f"{pointer}/{key}", _short(wanted.get(key)), f"the key {other!r} instead"
            if unlike := first_difference(value, twin, f"{pointer}/{key}"):
                return unlike
        return _length(wanted, found, pointer)
    if isinstance(wanted, list) and isinstance(found, list):
        pairs = enumerate(zip(wanted, found, strict=False))
        inside = (first_difference(a, b, f"{pointer}/{i}") for i, (a, b) in pairs)
        return next((u for u in inside if u), None) or _length(wanted, found, pointer)
    return None if wanted == found else (pointer, _short(wanted), _short(found))


def _length(wanted: Any, found: Any, pointer: str) -> tuple[str, Any, Any] | None:
    if len(wanted) == len(found):
        return None
    return pointer, f"{len(wanted)} members", f"{len(found)} members"


def _short(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
    return f"{text[:80]}…" if isinstance(text, str) and len(text) > 80 else text


def _plain(document: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(document), parse_int=float)


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    for _number, batch in groupby(enumerate(items), key=lambda pair: pair[0] // size):
        yield [item for _place, item in batch]
