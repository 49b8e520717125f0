"""The tables as the service reads them: a pool of read-only connections on the PG wire, everything bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, dict_row
from psycopg_pool import AsyncConnectionPool

from b3_pipeline.asking import Asking
from b3_pipeline.errors import B3Error
from b3_pipeline.questdb.client import Address

POOL = 6
#: For a connection, and for an answer: who asks gets a clear 503 then, instead of waiting for ever.
CONNECT_S, WAIT_S, ANSWER_S = 3, 2.0, 5.0
#: Rows that are made at once: meanwhile the event loop does nothing else.
_BATCH = 1_000

Query = LiteralString | sql.SQL | sql.Composed


class StoreAway(B3Error):
    """QuestDB does not answer, or not in time."""


class StoreSlow(StoreAway):
    """QuestDB is there, and does not answer in time."""


#: What says so; the pool's time-outs are among them.
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, OSError)


class Store:
    """The read-only user's connections to QuestDB, for one event loop; in an `async with` block.

    Rows come as dicts; times are naive UTC, as the tables have them. Every query raises StoreAway, and psycopg.Error
    for one that QuestDB refuses: that is a defect.
    """

    def __init__(self, address: Address, size: int = POOL) -> None:
        self._pool = AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]](
            kwargs={
                "host": address.pg_host,
                "port": address.pg_port,
                "user": address.reader,
                "password": address.reader_password,
                "dbname": "qdb",
                "autocommit": True,
                "connect_timeout": CONNECT_S,
                "prepare_threshold": 2,
            },
            min_size=0,
            max_size=size,
            timeout=WAIT_S,
            max_waiting=256,
            open=False,
            reconnect_timeout=1,
        )
        self._asking = Asking()

    async def __aenter__(self) -> Store:
        await self._pool.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._asking.end()
        await self._pool.close(timeout=1)

    async def rows(self, query: Query, *values: object) -> list[dict[str, Any]]:
        """The rows of one SELECT with bound values."""
        try:
            return await self._asking.within(ANSWER_S, self._rows(query, values))
        except TimeoutError:
            raise StoreSlow("QuestDB does not answer in time.") from None
        except _AWAY as error:
            raise StoreAway("QuestDB does not answer.") from error

    async def _rows(self, query: Query, values: Sequence[object]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, values)
            while batch := await cursor.fetchmany(_BATCH):
                found += batch
                if len(batch) == _BATCH:
                    await asyncio.sleep(0)
        return found

    async def row(self, query: Query, *values: object) -> dict[str, Any] | None:
        """The first row of one SELECT; None when there is none."""
        rows: Sequence[dict[str, Any]] = await self.rows(query, *values)
        return rows[0] if rows else None

    async def newest(self, query: Query, *values: object) -> datetime | None:
        """The one moment that a SELECT gives; None when it is null."""
        found = await self.row(query, *values)
        return next(iter(found.values())) if found else None
