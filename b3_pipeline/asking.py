"""Questions to a server that are given up in their time: who asks goes on, and the question is ended beside."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: So long the server may take to end a question that nobody waits for any more; then its connection is closed.
CANCEL_S = 1.0


class Asking:
    """The questions that one event loop asks just now."""

    def __init__(self) -> None:
        self._asking: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def within(self, seconds: float, question: Coroutine[Any, Any, T]) -> T:
        """The answer. Raises TimeoutError when it does not come in time, and whatever the question raises."""
        task = asyncio.create_task(question)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        try:
            done, _ = await asyncio.wait([task], timeout=seconds)
        except asyncio.CancelledError:
            self._leave(task)
            raise
        if not done:
            self._leave(task)
            raise TimeoutError
        return task.result()

    async def end(self) -> None:
        """Ends all that is asked."""
        await asyncio.gather(*map(_end, self._asking))

    def _leave(self, task: asyncio.Task[Any]) -> None:
        """Ends a question that nobody waits for; beside, for a silent server does not let go of it soon."""
        ending = asyncio.create_task(_end(task))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancels a question. psycopg asks the server to end it, and closes the connection when it is cancelled once more."""
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=CANCEL_S)
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_S)
    if task.done() and not task.cancelled():
        task.exception()  # whatever it was, nobody waits for it
