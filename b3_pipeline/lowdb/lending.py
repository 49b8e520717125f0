"""Connections to the tables, lent for a question each, and what PostgreSQL's errors mean to who asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from b3_pipeline.lowdb.store import Busy, Refused, StoreAway

Connection = TypeVar("Connection", bound=psycopg.AsyncConnection[Any])

#: The schema comes with the first migration, and a user's rights with the roles.
_NOT_MADE = (errors.UndefinedTable, errors.InvalidSchemaName, errors.UndefinedFunction, errors.InsufficientPrivilege)
#: With these the server itself ends a connection, or takes none: it stops, or starts.
_ENDED = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)
_FULL = "Too much is asked of PostgreSQL at once."
_SILENT = "PostgreSQL does not answer."


class Lending(Generic[Connection]):
    """Lends the connections of a pool, and tells a pool that is full from a server that is away."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool
        self._lent = self._times = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for the length of the block. Raises Busy while others have them all; StoreAway: there are none."""
        times = self._times
        async with AsyncExitStack() as stack:
            try:
                db = await stack.enter_async_context(self._pool.connection())
            except TooManyRequests:
                raise Busy(_FULL) from None
            except PoolTimeout:
                raise Busy(_FULL) if self._lent or self._times > times else StoreAway(_SILENT) from None
            self._times += 1
            self._lent += 1
            stack.callback(self._returned)
            yield db

    def _returned(self) -> None:
        self._lent -= 1


@contextmanager
def told() -> Iterator[None]:
    """Says what PostgreSQL's errors mean; of what it says itself nothing goes out."""
    try:
        yield
    except TimeoutError:
        raise Busy("PostgreSQL does not answer in time.") from None
    except _NOT_MADE as error:
        raise Busy(
            "PostgreSQL has no tables of the ideas yet, or this user may not use them: `b3 lowdb migrate` makes them."
        ) from error
    except errors.ForeignKeyViolation as error:
        raise Refused("It refers to an idea that is not there.") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise (StoreAway(_SILENT) if _lost(error) else Busy("PostgreSQL gave a question up.")) from error
    except OSError as error:
        raise StoreAway(_SILENT) from error


def _lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone; an error that the server tells by its code came over one that is there."""
    return error.sqlstate is None or error.sqlstate.startswith("08") or isinstance(error, _ENDED)
