"""What the shadow reads in the tables: the rows of wide files as lines, and the documents as they were received."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce

import numpy as np
import pyarrow as pa
from psycopg import sql

from b3_pipeline.choosing import COMPOSED
from b3_pipeline.loading.compare import pick
from b3_pipeline.quality.documents import CAPTURES, Document
from b3_pipeline.quality.stored import Condition, condition, during, of_feed, one_of, stretches
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import Window, session_of, to_local
from b3_pipeline.shadow.forms import Form, Gathered
from b3_pipeline.tables import Table

#: The feeds whose payloads are the documents themselves: what these hold is in no other file.
DOCUMENT_FEEDS = ("legacy_capture", "gammalevels")
ROWS_AT_ONCE = 20_000
DOCUMENTS_AT_ONCE = 200
#: Brasília is so far behind UTC, or an hour less.
_WEST, _MARGIN = timedelta(hours=3), timedelta(hours=1)


def wide_rows() -> Condition:
    """The rows that wide files are made from. What a capture brought is in its document already."""
    without = [condition("{f} != %s", feed, f="feed") for feed in (*DOCUMENT_FEEDS, COMPOSED)]
    return reduce(Condition.__and__, without)


def of_loads(load_ids: Sequence[int]) -> Condition:
    """The rows that some loads brought."""
    marks = sql.SQL(", ").join([sql.Placeholder()] * len(load_ids))
    return Condition(sql.SQL("load_id in ({})").format(marks), tuple(load_ids))


def moments(db: QuestDB, form: Form, where: Condition) -> set[datetime]:
    """The times (local, as lines have them) of the rows that meet a condition."""
    where = where & wide_rows()
    found = db.query(named("select distinct ts from {t} where ", t=form.table.name) + where.text, *where.values)
    return {form.moment(to_local(ts)) for (ts,) in found if ts is not None}


def span(first: date | None, last: date | None) -> Window:
    """A window (UTC) that has all of the local days from `first` to `last`, None without an end, and hours beside them."""
    start = None if first is None else datetime.combine(first, time(), UTC) + _WEST - _MARGIN
    end = None if last is None else datetime.combine(last + timedelta(days=1), time(), UTC) + _WEST + _MARGIN
    return Window(start and start.replace(tzinfo=None), end and end.replace(tzinfo=None))


def gather(
    db: QuestDB, form: Form, window: Window, wanted: Callable[[datetime], bool] = lambda _line: True
) -> Gathered:
    """The table's rows in a window (UTC) as lines: those whose local time, as lines have it, is `wanted`."""
    gathered = Gathered(form)
    columns = (*form.table.parsed, form.table.column("feed"))
    schema = form.table.arrow_schema(columns)
    query = named("select {columns} from {t} where ", columns=schema.names, t=form.table.name)
    for stretch, count in stretches(db, form.table, ROWS_AT_ONCE, window, wide_rows()):
        if count:
            where = during(form.table, stretch) & wide_rows()
            rows = db.arrow(query + where.text, *where.values, schema=schema)
            lines = (form.moment(to_local(ts)) for ts in rows.column("ts").to_pylist())
            gathered.add(pick(rows, np.fromiter(map(wanted, lines), bool, rows.num_rows)))
    return gathered


def documents(db: QuestDB, endpoint: str, window: Window, where: Condition | None = None) -> Iterator[Document]:
    """An endpoint's documents that the shadow keeps, in time's order, in bounded memory: in a window, under a condition."""
    within = _of_endpoint(endpoint) if where is None else _of_endpoint(endpoint) & where
    for stretch, count in stretches(db, CAPTURES, DOCUMENTS_AT_ONCE, window, within):
        if count:
            yield from _documents(db, during(CAPTURES, stretch) & within, named(" order by ts"))


def newest_document(db: QuestDB, endpoint: str) -> Document | None:
    """The newest document of an endpoint; of two of one moment the live source's.

    A composed one counts in a session of which there is no other, as it does for the legacy routes.
    """
    newest = _newest(db, _of_endpoint(endpoint))
    composed = _newest(db, condition("{e} = %s", endpoint, e="endpoint") & of_feed(COMPOSED))
    if composed is None or (newest is not None and _session(newest) >= _session(composed)):
        return newest
    return composed


def _newest(db: QuestDB, where: Condition) -> Document | None:
    # the live source's feed comes first by its name, too
    return next(_documents(db, where, named(" order by ts desc, feed limit 1")), None)


def _session(document: Document) -> date:
    return session_of(to_local(document.ts).date())


def _of_endpoint(endpoint: str) -> Condition:
    return condition("{e} = %s", endpoint, e="endpoint") & one_of("feed", DOCUMENT_FEEDS)


def _documents(db: QuestDB, where: Condition, tail: sql.Composed) -> Iterator[Document]:
    query = named("select ts, endpoint, payload, sha256, feed, load_id from {c} where ", c=CAPTURES.name)
    for row in db.query(query + where.text + tail, *where.values):
        yield Document(*row, file=None)


def rows_of_documents(db: QuestDB, table: Table, endpoint: str, window: Window) -> pa.Table:
    """A table's rows in a window that an endpoint's documents brought, as a parser gives them, with their feed."""
    of_document = _of_endpoint(endpoint) if table.name == CAPTURES.name else one_of("feed", DOCUMENT_FEEDS)
    where = during(table, window) & of_document
    schema = table.arrow_schema((*table.parsed, table.column("feed")))
    query = named("select {columns} from {t} where ", columns=schema.names, t=table.name)
    return db.arrow(query + where.text, *where.values, schema=schema)
