"""The store of the ideas that the service asks: the files or the tables, as the phase of the domain says.

| phase | answers | takes writes |
|---|---|---|
| legacy | files | files |
| shadow | files, compared with the tables beside | files, then the tables under the same id |
| active | tables; the files as of the step while PostgreSQL is away | tables |
| frozen | tables | tables |

A home without a LowDB folder has the tables alone, in every phase.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from typing import Any, TypeVar

from b3_pipeline.alerts import spool
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.watching import real_now
from b3_pipeline.errors import B3Error
from b3_pipeline.lowdb.fence import Fence, Switching
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.mirroring import Mirror
from b3_pipeline.lowdb.model import BY_TABLE, DOMAIN, Collection, Record
from b3_pipeline.lowdb.shadowing import Shadowing
from b3_pipeline.lowdb.store import Asked, Busy, Change, Store, StoreAway, Stored
from b3_pipeline.lowdb.tables import Tables
from b3_pipeline.postgres.flags import PHASE, Current, Flags
from b3_pipeline.settings import Settings

LEGACY, SHADOW, ACTIVE, FROZEN = PHASE.values
#: After the tables were away they are not asked for so long, where the files can answer.
REST_S = 1.0
#: How often what is owed to the tables is tried again, and what was compared is added up.
EVERY_S = 1.0
#: So long it is tried at a time.
REPAYING_S = 5.0
#: Rows that are noted as owed to the tables; what there is beyond them is looked for when these are paid.
OWED = 1_000
#: Who has written what was found so, as the history has it.
LOOKED = "b3"
_T = TypeVar("_T")
_log = logging.getLogger(__name__)
#: Of which moment the files were that have answered the request of this context in place of the tables.
_as_of: ContextVar[datetime | None] = ContextVar("as_of", default=None)


class Rollout(Store):
    """A Store that follows the phase, from one question to the next. See `opened`."""

    def __init__(
        self,
        files: Store,
        tables: Store,
        mirror: Mirror,
        shadowing: Shadowing,
        fence: Fence,
        flags: Callable[[], Current],
        ask_phase: Callable[[], Current],
    ) -> None:
        self.shadowing = shadowing
        self.owed: dict[tuple[str, int], str] = {}
        self._files, self._tables, self._mirror, self._fence = files, tables, mirror, fence
        self._flags, self._ask_phase = flags, ask_phase
        self._unsure, self._unnoted = True, 0  # what a process before was owed, nobody knows
        self._away_until = 0.0

    @property
    def phase(self) -> str:
        """The phase that stands now."""
        return self._fence.standing(self._flags()).phase

    @property
    def since(self) -> datetime | None:
        """When it began, aware UTC; None: it was never set."""
        since = self._fence.standing(self._flags()).since
        return datetime.fromisoformat(since) if since else None

    @property
    def as_of(self) -> datetime | None:
        """When the tables took over, for a request that the files have answered for them."""
        return _as_of.get()

    @property
    def owing(self) -> int | None:
        """Rows that the tables are owed, as far as they are noted; None: nobody has looked yet."""
        return len(self.owed) or (None if self._unsure and self.phase == SHADOW else 0)

    async def page(self, collection: Collection, asked: Asked) -> tuple[list[Stored], int]:
        async def page(store: Store) -> tuple[list[Stored], int]:
            return await store.page(collection, asked)

        async def document(store: Store) -> Any:
            found, count = await page(store)
            return {"data": [each.record for each in found], "count": count}

        return await self._read(f"/api/v1/{collection.route}{_query(asked)}", page, document)

    async def counts(self, collection: Collection, member: str, asked: Asked) -> dict[str, int]:
        async def counts(store: Store) -> dict[str, int]:
            return await store.counts(collection, member, asked)

        return await self._read(f"/api/v1/{collection.route}{_query(asked)}#{member}", counts, counts)

    async def get(self, collection: Collection, id: int) -> Stored:
        async def stored(store: Store) -> Stored:
            return await store.get(collection, id)

        async def record(store: Store) -> Record:
            return (await stored(store)).record

        return await self._read(f"/api/v1/{collection.route}/{id}", stored, record)

    async def current(self, collection: Collection, id: int) -> Stored:
        store = self._files if self.phase in (LEGACY, SHADOW) else self._tables
        return await store.current(collection, id)

    async def create(self, collection: Collection, record: Mapping[str, Any], who: str) -> Stored:
        return await self._written(collection, lambda store: store.create(collection, record, who), who)

    async def replace(
        self, collection: Collection, id: int, record: Mapping[str, Any], match: str | None, who: str
    ) -> Stored:
        return await self._written(collection, lambda store: store.replace(collection, id, record, match, who), who)

    async def remove(self, collection: Collection, id: int, match: str | None, who: str) -> Stored:
        return await self._written(collection, lambda store: store.remove(collection, id, match, who), who)

    async def history(self, idea_id: int, limit: int) -> list[Change]:
        """Of the tables, which keep it from the phase shadow on; the files have none."""
        store = self._files if self.phase == LEGACY else self._tables
        return await store.history(idea_id, limit)

    async def records(self, collection: Collection) -> AsyncIterator[Record]:
        phase = self.phase
        store = self._of_files(phase) if self._files_answer(phase) else self._tables
        async for record in store.records(collection):
            yield record

    async def repay(self) -> None:
        """Copies into the tables what they are owed, and looks for it where nobody knows. Raises StoreAway."""
        if self._unsure and not self.owed and self.phase == SHADOW:
            await self._look()
        until = time.monotonic() + REPAYING_S
        for key, who in list(self.owed.items()):
            if time.monotonic() > until:  # those that could not be copied stand behind the others now
                return
            async with self._fence.entered():
                if await self._phase_of_writes() != SHADOW:  # a step has brought both together
                    self.owed.pop(key, None)
                    continue
                try:
                    await self._copied(*key, who)
                except Busy as error:
                    _log.info("%s %s is still not in the tables: %s", *key, error)

    async def _look(self) -> None:
        """Notes what the tables do not have as the files have it. Raises StoreAway."""
        unnoted = self._unnoted
        found = await self._mirror.owing(OWED)
        for key in found:
            self._owe(key, LOOKED)
        self._unsure = self._unnoted > unnoted or len(found) == OWED

    def _owe(self, key: tuple[str, int], who: str) -> None:
        if len(self.owed) < OWED:
            self.owed.setdefault(key, who)
        else:
            self._unsure, self._unnoted = True, self._unnoted + 1

    async def _copied(self, table: str, id: int, who: str) -> None:
        """The tables get a record as the files have it; raises StoreAway, and then they are owed it."""
        self.owed.pop((table, id), None)  # first: whoever writes it meanwhile, and is not copied, owes it anew
        try:
            if time.monotonic() < self._away_until:
                raise Busy("PostgreSQL was away a moment ago.")
            await self._mirror.copy(BY_TABLE[table], id, who)
        except StoreAway as error:
            if not isinstance(error, Busy):
                self._away_until = time.monotonic() + REST_S
            self._owe((table, id), who)
            raise

    def _files_answer(self, phase: str) -> bool:
        resting = time.monotonic() < self._away_until
        return phase in (LEGACY, SHADOW) or (phase == ACTIVE and resting)

    async def _read(
        self, endpoint: str, ask: Callable[[Store], Awaitable[_T]], document: Callable[[Store], Awaitable[Any]]
    ) -> _T:
        """Asks the store that answers in this phase, the files where the tables are away; in shadow also compares."""
        phase = self.phase
        if self._files_answer(phase):
            found = await ask(self._of_files(phase))
            if phase == SHADOW:
                self.shadowing.compare(endpoint, document)
            return found
        try:
            return await ask(self._tables)
        except StoreAway as error:
            if phase != ACTIVE or isinstance(error, Busy):
                raise
            self._away_until = time.monotonic() + REST_S
            return await ask(self._of_files(phase))

    def _of_files(self, phase: str) -> Store:
        """The files; in active the request that asks them is told of which moment they are."""
        if phase == ACTIVE:
            _as_of.set(self.since)
        return self._files

    async def _written(self, collection: Collection, write: Callable[[Store], Awaitable[Stored]], who: str) -> Stored:
        """Writes to the end once it has begun, whether or not its client waits for it."""
        task = asyncio.ensure_future(self._write(collection, write, who))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _write(self, collection: Collection, write: Callable[[Store], Awaitable[Stored]], who: str) -> Stored:
        async with self._fence.entered():
            phase = await self._phase_of_writes()
            if phase not in (LEGACY, SHADOW):
                return await write(self._tables)
            stored = await write(self._files)
            if phase == SHADOW:
                await self._mirrored(collection, int(stored.record[collection.id.name]), who, stored.record)
            return stored

    async def _phase_of_writes(self) -> str:
        """The phase, for sure: where a step has left that open, PostgreSQL says. Raises Switching."""
        note = self._fence.standing(self._flags())
        if not note.moving:
            return note.phase
        current = await asyncio.to_thread(self._ask_phase)
        if current.stale:
            raise Switching(
                "A step of the cutover was cut off, and PostgreSQL does not say how far it came: nothing can be written. "
                "`b3 cutover advance --domain ideas` or `b3 cutover rollback --domain ideas` goes on with it."
            )
        return current.phase(DOMAIN)

    async def _mirrored(self, collection: Collection, id: int, who: str, record: Record) -> None:
        """The tables get what was written; that they do not is no failure of the client's."""
        try:
            await self._copied(collection.table, id, who)
        except StoreAway as error:
            _log.warning("%s %s is not in the tables yet: %s", collection.table, id, error)
            self.shadowing.unmirrored(f"/api/v1/{collection.route}/{id}", record)


def _query(asked: Asked) -> str:
    """What tells questions of a list apart, for people."""
    given = {**asked.filters, "search": asked.search, "limit": asked.limit, "offset": asked.offset}
    return "?" + "&".join(f"{name}={value}"[:100] for name, value in given.items() if value is not None)


@asynccontextmanager
async def opened(settings: Settings, dsn: str, flags: Callable[[], Current]) -> AsyncIterator[Store]:
    """The store of a home for the length of the block, for one event loop. `flags` says what stands, without waiting.

    Raises BadDsn.
    """
    async with Tables(dsn, settings.clock) as tables:
        if settings.lowdb_dir is None:
            yield tables
            return
        files = Files(settings.lowdb_dir, settings.clock)
        async with Mirror(dsn, files) as mirror:
            shadowing = Shadowing(dsn, files, tables, settings.clock)
            ask = Flags(settings.home, dsn)
            store = Rollout(files, tables, mirror, shadowing, Fence(settings.home), flags, ask.current)
            following = asyncio.create_task(_go_on(settings, store))
            try:
                yield store
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
                await shadowing.close()
                await shadowing.tell(store.since)


async def _go_on(settings: Settings, store: Rollout) -> None:
    """What is owed to the tables is tried again, what was compared is told; the monitor knows what is owed."""
    red: bool | None = None  # nobody knows what a process before has told
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            with suppress(StoreAway):
                await store.repay()
            await store.shadowing.tell(store.since)
            owed = store.owing
            if owed is not None and (owed > 0) != red:
                await asyncio.to_thread(spool.put, settings.home, [_owing(owed)])
                red = owed > 0
        except (B3Error, OSError) as error:
            _log.warning("What the tables are owed cannot be told: %s", error)


def _owing(rows: int) -> Condition:
    return Condition(
        kind="check",
        name="ideas:mirror",
        red=rows > 0,
        severity="ERROR",
        at=real_now(),
        what=f"{rows} writes of ideas are in the LowDB files and not in PostgreSQL",
        what_to_do="Is PostgreSQL up (`b3 status`)? They follow by themselves; `b3 lowdb migrate` loads them, too.",
    )
