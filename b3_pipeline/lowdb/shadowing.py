"""In the phase shadow: each answer of the files is compared with what the tables answer, beside what goes out.

A comparison waits for nothing and nobody waits for it; of too many at once those that are more are dropped, and counted.
What differs is asked again on both sides for a moment: a write that is under way is no mismatch. What differs still is
kept with both answers (`postgres/mismatches.py`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from b3_pipeline.errors import B3Error
from b3_pipeline.lowdb.model import DOMAIN
from b3_pipeline.lowdb.store import NoSuchRecord, Store, StoreAway
from b3_pipeline.metrics import instruments
from b3_pipeline.postgres import compared, mismatches
from b3_pipeline.postgres.compared import Counts
from b3_pipeline.postgres.mismatches import Found

#: Comparisons at once; of more, each is dropped and counted.
COMPARING = 64
#: So often what differs is asked again, and so long after the time before.
ATTEMPTS, AGAIN_S = 4, 0.5
_log = logging.getLogger(__name__)
#: Asks a store for something, and gives the answer as JSON has it; raises NoSuchRecord, StoreAway.
Ask = Callable[[Store], Awaitable[Any]]


class Shadowing:
    """The comparisons of one process and event loop. `now` gives aware UTC; `close` ends those that are under way."""

    def __init__(
        self,
        dsn: str,
        files: Store,
        tables: Store,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts = Counts()
        self._dsn, self._files, self._tables, self._now, self._sleep = dsn, files, tables, now, sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: dict[str, int] = {}

    def compare(self, endpoint: str, ask: Ask) -> None:
        """Compares the answers of both stores to a question, from now on and without waiting."""
        if len(self._tasks) >= COMPARING:
            self.counts.dropped += 1
            return
        self._begin(self._compared(endpoint, ask))

    def unmirrored(self, endpoint: str, record: Any) -> None:
        """Notes that the tables did not get what was written into the files: nobody has to ask for it to be seen."""
        self.counts.unmirrored += 1
        differences = [{"pointer": "", "legacy": record, "ours": None, "what": "the tables did not get this write"}]
        self._begin(self._keep(Found(self._now(), endpoint, _text(record), None, differences, kind="unmirrored")))

    async def settled(self) -> None:
        """Returns when no comparison is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Ends the comparisons that are under way."""
        for task in [*self._tasks]:
            task.cancel()
        await self.settled()

    async def tell(self, since: datetime | None) -> None:
        """Adds what was counted to the numbers of the phase that began at a moment, and to the metrics."""
        new = self.counts.less(self._told)
        if since is None or new == Counts():
            return
        try:
            await asyncio.to_thread(compared.add, self._dsn, DOMAIN, since, new)
        except B3Error:
            return  # they wait until PostgreSQL takes them
        for outcome, times in asdict(new).items():
            self._told[outcome] = self._told.get(outcome, 0) + times
            instruments.idea_compared(outcome, times)

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compared(self, endpoint: str, ask: Ask) -> None:
        try:
            await self._compare(endpoint, ask)
        except StoreAway:
            self.counts.failed += 1
        except Exception:
            self.counts.failed += 1
            _log.exception("A comparison of %s failed.", endpoint)

    async def _compare(self, endpoint: str, ask: Ask) -> None:
        theirs, ours = await self._both(ask)
        if theirs == ours:
            self.counts.equal += 1
            return
        for _attempt in range(ATTEMPTS):
            await self._sleep(AGAIN_S)
            theirs, ours = await self._both(ask)
            if theirs == ours:
                self.counts.superseded += 1
                return
        self.counts.different += 1
        await self._keep(Found(self._now(), endpoint, theirs, ours, _differences(theirs, ours)))

    async def _both(self, ask: Ask) -> tuple[bytes, bytes]:
        return await _answer(self._files, ask), await _answer(self._tables, ask)

    async def _keep(self, found: Found) -> None:
        try:
            await asyncio.to_thread(mismatches.record, self._dsn, found)
        except B3Error as error:
            self.counts.failed += 1
            _log.warning("A mismatch is not kept: %s", error)


async def _answer(store: Store, ask: Ask) -> bytes:
    """What a store answers, in one form whatever the order of its members is."""
    try:
        return _text(await ask(store))
    except NoSuchRecord:
        return _text(None)


def _text(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, sort_keys=True).encode()


def _differences(theirs: bytes, ours: bytes) -> list[dict[str, Any]]:
    from b3_pipeline.api.switch import document_differences

    return [each._asdict() for each in document_differences(json.loads(theirs), json.loads(ours))]
