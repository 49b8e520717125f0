"""The collections as PostgreSQL's tables: a pool of connections, everything bounded, no change lost to another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from types import TracebackType
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from b3_pipeline.asking import Asking
from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.lending import Lending, told
from b3_pipeline.lowdb.model import IDEAS, SCHEMA, Collection, Field, Kind, Record
from b3_pipeline.lowdb.schema import bound, identifiers
from b3_pipeline.lowdb.store import (
    Asked,
    Change,
    Changed,
    NoSuchRecord,
    Refused,
    Store,
    StoreAway,
    Stored,
    changed,
    filters_of,
    id_member,
    in_order,
    matches,
    new,
)
from b3_pipeline.postgres.dsn import checked

POOL = 10
#: For a connection, for one of the pool, for a statement (ms), and for an answer: then who asks gets a clear 503.
CONNECT_S, WAIT_S, STATEMENT_MS, ANSWER_S = 3, 2.0, 4_000, 5.0
#: Rows that are fetched at once where all are asked for.
BATCH = 1_000
#: So many rows that a search finds are few: they are picked out by their ids. That they are more, the first rows may tell.
FEW, FIRST = 500, 2_000
#: Asked of the session, for a connection's `options` would take the place of those that the DSN gives.
#: How many rows a search finds depends on its words, so each is planned by itself.
_SETTINGS: LiteralString = (
    "select set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false), "
    "set_config('plan_cache_mode', 'force_custom_plan', false), set_config('jit', 'off', false)"
)
_WHO: LiteralString = "select set_config('b3.who', %s, true)"
_HISTORY: LiteralString = (
    "select id, at, who, action, before, after from ideas.idea_history where idea_id = %s order by id desc limit %s"
)
T = TypeVar("T")
Connection = psycopg.AsyncConnection[DictRow]


class Tables(Store):
    """The tables of the schema `ideas`, for one event loop; in an `async with` block. Without a DSN they are away.

    `clock` gives the present, aware UTC. Who asks waits `ANSWER_S` at most; then it is Busy, and of a change nobody
    knows whether it was made: with its ETag it can be tried again.
    """

    def __init__(self, dsn: str | None, clock: Callable[[], datetime], size: int = POOL) -> None:
        self._clock, self._asking = clock, Asking()
        self._pool = None if dsn is None else _pool(dsn, size)
        self._lending = Lending(self._pool) if self._pool else None

    async def __aenter__(self) -> Tables:
        if self._pool:
            await self._pool.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._asking.end()
        if self._pool:
            await self._pool.close(timeout=1)

    @property
    def as_of(self) -> None:
        return None

    async def page(self, collection: Collection, asked: Asked) -> tuple[list[Stored], int]:
        return await self._ask(lambda db: _page(db, collection, asked))

    async def counts(self, collection: Collection, member: str, asked: Asked) -> dict[str, int]:
        return await self._ask(lambda db: _counts(db, collection, collection.field(member), asked))

    async def get(self, collection: Collection, id: int) -> Stored:
        return await self._ask(lambda db: _get(db, collection, id))

    async def create(self, collection: Collection, record: Mapping[str, Any], who: str) -> Stored:
        made = new(collection, record, self._clock())
        return await self._change(who, lambda db: _insert(db, collection, made))

    async def replace(
        self, collection: Collection, id: int, record: Mapping[str, Any], match: str | None, who: str
    ) -> Stored:
        now = self._clock()

        async def replaced(db: Connection) -> Stored:
            before = await _held(db, collection, id, match)
            after = Stored(changed(collection, before.record, record, now))
            if after.etag != before.etag:
                await _update(db, collection, after.record)
            return after

        return await self._change(who, replaced)

    async def remove(self, collection: Collection, id: int, match: str | None, who: str) -> Stored:
        async def removed(db: Connection) -> Stored:
            before = await _held(db, collection, id, match)
            await db.execute(_about(collection, "delete from {table} where id = %s"), (id,))
            return before

        return await self._change(who, removed)

    async def history(self, idea_id: int, limit: int) -> list[Change]:
        async def asked(db: Connection) -> list[Change]:
            rows = await (await db.execute(_HISTORY, (idea_id, limit))).fetchall()
            return [_change(row) for row in rows]

        if found := await self._ask(asked):
            return found
        raise _missing(IDEAS, idea_id)

    async def records(self, collection: Collection) -> AsyncIterator[Record]:
        query = _about(collection, "select {columns} from {table} order by id")
        with told():
            async with self._connection() as db, db.transaction(), db.cursor("records") as cursor:
                cursor.itersize = BATCH
                await cursor.execute(query)
                async for row in cursor:
                    yield rules.of_row(collection, row)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if self._lending is None:
            raise StoreAway("PostgreSQL is not up.")
        async with self._lending.connection() as db:
            yield db

    async def _ask(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        """What a question gives, in its time. Raises StoreAway (Busy), Refused, and what the question raises."""

        async def asked() -> T:
            async with self._connection() as db:
                return await question(db)

        with told():
            return await self._asking.within(ANSWER_S, asked())

    async def _change(self, who: str, change: Callable[[Connection], Awaitable[T]]) -> T:
        """Makes a change as one transaction, of which the history says who made it."""

        async def changed_by(db: Connection) -> T:
            try:
                async with db.transaction():
                    await db.execute(_WHO, (who,))
                    return await change(db)
            except errors.ProgramLimitExceeded as error:
                raise Refused("It has more words than PostgreSQL can hold.") from error

        return await self._ask(changed_by)


def _pool(dsn: str, size: int) -> AsyncConnectionPool[Connection]:
    return AsyncConnectionPool(
        checked(dsn),
        connection_class=Connection,
        kwargs={
            "autocommit": True,
            "row_factory": dict_row,
            "connect_timeout": CONNECT_S,
            "prepare_threshold": 2,
        },
        configure=_configure,
        min_size=0,
        max_size=size,
        timeout=WAIT_S,
        max_waiting=256,
        open=False,
        reconnect_timeout=1,
    )


async def _configure(db: Connection) -> None:
    await db.execute(_SETTINGS, (str(STATEMENT_MS),))


@cache
def _about(collection: Collection, query: LiteralString) -> sql.Composed:
    """A query with the names of a collection: its table, its columns, those without the id, and places for their values."""
    columns = collection.columns
    return sql.SQL(query).format(
        table=sql.Identifier(SCHEMA, collection.table),
        columns=identifiers(columns),
        others=identifiers(columns[1:]),
        values=sql.SQL(", ").join(map(sql.Placeholder, columns[1:])),
    )


async def _page(db: Connection, collection: Collection, asked: Asked) -> tuple[list[Stored], int]:
    searching = bool(rules.query(asked.search or ""))
    if searching and (ids := await _few(db, collection, asked)) is not None:
        return await _of_ids(db, collection, asked, ids)
    where, values = _where(collection, asked, _IN_ORDER)
    query = _about(collection, "select {columns} from {table}") + where + sql.SQL(" order by id limit %s offset %s")
    found = await _all(db, collection, query, (*values, asked.limit, asked.offset))
    if searching and asked.count_to is not None and asked.count_to <= FEW:
        return found, asked.count_to + 1
    if asked.count_to is None and found and len(found) < asked.limit:  # it ends here
        return found, asked.offset + len(found)
    return found, await _total(db, collection, asked)


async def _few(db: Connection, collection: Collection, asked: Asked) -> list[int] | None:
    """The ids that a search finds, None where they are many.

    PostgreSQL does not know how many rows have a word that begins so: it would read the whole table for one that none has,
    or sort half of it for one that many have. Of many the first rows tell; else the index of the words is asked for all
    (materialized, for else the limit would make the whole table look cheap).
    """
    where, values = _where(collection, asked)
    found = sql.SQL("with found as materialized ({}) select id from found limit %s").format(
        _about(collection, "select id from {table}") + where
    )
    others, their_values = _where(collection, replace(asked, search=None))
    first = sql.SQL("select id from ({} order by id limit %s) first where search @@ %s::tsquery limit %s").format(
        _about(collection, "select id, search from {table}") + others
    )
    for query, given in (
        (first, (*their_values, FIRST, rules.query(asked.search or ""), FEW + 1)),
        (found, (*values, FEW + 1)),
    ):
        rows = await (await db.execute(query, given)).fetchall()
        if len(rows) > FEW:
            return None
    return sorted(row["id"] for row in rows)


async def _of_ids(db: Connection, collection: Collection, asked: Asked, ids: list[int]) -> tuple[list[Stored], int]:
    query = _about(collection, "select {columns} from {table} where id = any(%s) order by id")
    found = await _all(db, collection, query, (ids[asked.offset : asked.offset + asked.limit],))
    return found, len(ids) if asked.count_to is None else min(len(ids), asked.count_to + 1)


async def _all(db: Connection, collection: Collection, query: sql.Composed, values: Sequence[object]) -> list[Stored]:
    rows = await (await db.execute(query, values)).fetchall()
    return [Stored(rules.of_row(collection, row)) for row in rows]


async def _total(db: Connection, collection: Collection, asked: Asked) -> int:
    where, values = _where(collection, asked)
    query = sql.SQL("select count(*) n from ({} limit %s) counted").format(
        _about(collection, "select from {table}") + where
    )
    most = None if asked.count_to is None else asked.count_to + 1
    [row] = await (await db.execute(query, (*values, most))).fetchall()
    return row["n"]


async def _counts(db: Connection, collection: Collection, field: Field, asked: Asked) -> dict[str, int]:
    where, values = _where(collection, asked)
    column = sql.Identifier(field.column)
    query = sql.SQL("{} group by 1").format(
        sql.SQL("select {} value, count(*) n from {}").format(column, sql.Identifier(SCHEMA, collection.table)) + where
    )
    rows = await (await db.execute(query, values)).fetchall()
    return in_order(field, {str(row["value"]): row["n"] for row in rows})


#: A search by the index of the words, or, where many rows have them, row by row in the order of the page.
_BY_INDEX, _IN_ORDER = sql.SQL("search @@ %s::tsquery"), sql.SQL("(search @@ %s::tsquery) is true")


def _where(collection: Collection, asked: Asked, search: sql.SQL = _BY_INDEX) -> tuple[sql.Composed, list[object]]:
    parts: list[sql.Composable] = [sql.SQL("true")]
    values: list[object] = []
    for name, value in asked.filters.items():
        field = filters_of(collection)[name]
        parts.append(_condition(collection, field))
        values.append(int(value) if field.refers_to else value)
    if words := rules.query(asked.search or ""):
        parts.append(search)
        values.append(words)
    return sql.SQL(" where ") + sql.SQL(" and ").join(parts), values


def _condition(collection: Collection, field: Field) -> sql.Composable:
    if collection is IDEAS and field.kind is Kind.TAGS:  # by its index
        return sql.SQL("id in (select idea_id from ideas.idea_tags where tag = %s)")
    held = sql.SQL("%s = any({})") if field.kind is Kind.TAGS else sql.SQL("{} = %s")
    return held.format(sql.Identifier(field.column))


async def _get(db: Connection, collection: Collection, id: int) -> Stored:
    return await _one(db, collection, id, _about(collection, "select {columns} from {table} where id = %s"))


async def _held(db: Connection, collection: Collection, id: int, match: str | None) -> Stored:
    """A record that nobody else changes until the transaction ends. Raises NoSuchRecord, Changed."""
    query = _about(collection, "select {columns} from {table} where id = %s for update")
    found = await _one(db, collection, id, query)
    if match is not None and not matches(match, found.etag):
        raise Changed(found)
    return found


async def _one(db: Connection, collection: Collection, id: int, query: sql.Composed) -> Stored:
    row = await (await db.execute(query, (id,))).fetchone()
    if row is None:
        raise _missing(collection, id)
    return Stored(rules.of_row(collection, row))


def _missing(collection: Collection, id: int) -> NoSuchRecord:
    return NoSuchRecord(f"There is no {id} among the {collection.what}.")


async def _insert(db: Connection, collection: Collection, record: Record) -> Stored:
    query = _about(collection, "insert into {table} ({others}) values ({values}) returning id")
    row = await (await db.execute(query, bound(collection, record))).fetchone()
    assert row, "an insert that does not fail gives its row"
    return Stored({**record, **id_member(collection, row["id"])})


async def _update(db: Connection, collection: Collection, record: Record) -> None:
    query = _about(collection, "update {table} set ({others}) = row({values}) where id = %(id)s")
    await db.execute(query, bound(collection, record))


def _change(row: Mapping[str, Any]) -> Change:
    before, after = (None if row[name] is None else _recorded(row[name]) for name in ("before", "after"))
    return Change(row["id"], row["at"].astimezone(UTC), row["who"], row["action"], before, after)


def _recorded(row: Mapping[str, Any]) -> Record:
    """The record of a row that the history has as JSON."""
    moments = {field.column for field in IDEAS.fields if field.kind is Kind.MOMENT}
    return rules.of_row(
        IDEAS,
        {
            column: datetime.fromisoformat(value) if column in moments and value is not None else value
            for column, value in row.items()
        },
    )
