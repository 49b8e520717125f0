"""In the phase shadow: what was written into the files goes into the tables beside them, under the same id.

A record is copied as it is in the files by then, one copy of it at a time: whichever of two writers comes last, both sides
are the same in the end. What could not be copied is owed, and tried again (`serving.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from types import TracebackType
from typing import Any, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool

from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.lending import Lending, told
from b3_pipeline.lowdb.levelling import pairs, putting, removing
from b3_pipeline.lowdb.model import COLLECTIONS, Collection, Record
from b3_pipeline.lowdb.schema import IdeasError, bound, ideas
from b3_pipeline.lowdb.store import Busy, NoSuchRecord, Refused, Store, StoreAway
from b3_pipeline.postgres.dsn import checked

POOL = 4
#: For one copy: a client waits for it, whose write is done.
WAIT_S = 2.0
_ALONE: LiteralString = "select pg_advisory_xact_lock(hashtext(%s), %s::int)"
_WHO: LiteralString = "select set_config('b3.who', %s, true)"


class Mirror:
    """Copies records of the files into the tables; for one event loop, in an `async with` block. Raises BadDsn."""

    def __init__(self, dsn: str, files: Store) -> None:
        self._dsn, self._files = dsn, files
        self._pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]](
            checked(dsn),
            kwargs={"autocommit": True, "connect_timeout": 3},
            min_size=0,
            max_size=POOL,
            timeout=WAIT_S / 2,
            open=False,
            reconnect_timeout=1,
        )
        self._lending = Lending(self._pool)

    async def __aenter__(self) -> Mirror:
        await self._pool.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close(timeout=1)

    async def copy(self, collection: Collection, id: int, who: str) -> None:
        """Makes the row of an id what the files have under it, or takes it away.

        Raises StoreAway; Busy where PostgreSQL is there and does not take this copy.
        """
        try:
            with told():
                async with asyncio.timeout(WAIT_S), self._lending.connection() as db, db.transaction():
                    await db.execute(_ALONE, (collection.table, id % 2**31))
                    await db.execute(_WHO, (who,))
                    await self._copy(db, collection, id)
        except (Refused, psycopg.Error) as error:
            raise Busy("PostgreSQL does not take this copy.") from error

    async def owing(self, most: int) -> list[tuple[str, int]]:
        """Table and id of the records that files and tables do not have alike, no more than `most`. Raises StoreAway."""
        given = {c.table: [record async for record in self._files.records(c)] for c in COLLECTIONS}
        return await asyncio.to_thread(_differing, self._dsn, given, most)

    async def _copy(self, db: psycopg.AsyncConnection[Any], collection: Collection, id: int) -> None:
        try:
            record = (await self._files.get(collection, id)).record
        except NoSuchRecord:
            await db.execute(removing(collection), (id,))
            return
        except StoreAway as error:  # the files: that says nothing of PostgreSQL
            raise Busy(str(error)) from error
        await db.execute(putting(collection), bound(collection, record))


def _differing(dsn: str, given: Mapping[str, list[Record]], most: int) -> list[tuple[str, int]]:
    try:
        with ideas(dsn) as db, db.transaction():
            found = (
                (collection.table, id)
                for collection in COLLECTIONS
                for id, theirs, ours in pairs(db, collection, given[collection.table])
                if theirs is None or ours is None or not rules.same(theirs, ours)
            )
            return list(islice(found, most))
    except (IdeasError, psycopg.Error) as error:
        raise StoreAway("PostgreSQL does not say what it is owed.") from error
