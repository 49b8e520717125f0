"""Where routes block while they write: threads of their own, so that whoever waits for a lock keeps no reader waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from b3_pipeline.api.problems import Problem

T = TypeVar("T")
THREADS = 4
#: Writes under way and waiting for a thread; who comes then is sent away.
MOST = 12


class Writers:
    """The writes of one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "writes")
        self._under_way = 0

    async def run(self, write: Callable[[], T]) -> T:
        """What `write` gives, which goes on when nobody waits for it any more. Raises Problem (503) where too many wait."""
        if self._under_way >= MOST:
            raise Problem(503, "Too many changes are waiting; ask again in a moment.", {"retry-after": "1"})
        self._under_way += 1
        done = asyncio.get_running_loop().run_in_executor(self._threads, write)
        done.add_done_callback(self._ended)
        return await asyncio.shield(done)

    def _ended(self, _done: object) -> None:
        self._under_way -= 1
