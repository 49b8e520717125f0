"""Writing from a route: off the event loop, over a connection of its own, and what goes wrong as a problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from b3_pipeline.api.service import Service
from b3_pipeline.api.store import StoreAway
from b3_pipeline.loading.locks import TableBusy
from b3_pipeline.questdb.client import QuestDB, QuestDBError

T = TypeVar("T")
#: How long rows may take to show.
_APPLIED_S = 10.0


async def written(service: Service, write: Callable[[QuestDB], T]) -> T:
    """What `write` gives. Raises StoreAway where QuestDB is away or busy, Problem where too many write, and whatever else `write` raises."""
    from b3_pipeline.services import known_engines

    def once() -> T:
        with QuestDB(known_engines(service.settings).questdb, apply_timeout_s=_APPLIED_S) as db:
            return write(db)

    try:
        return await service.writers.run(once)
    except TableBusy as error:
        raise StoreAway("Somebody else writes into this table just now.") from error
    except QuestDBError as error:
        raise StoreAway("QuestDB does not answer.") from error
