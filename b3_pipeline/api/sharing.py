"""One answer for many who ask at once: the result of a question is shared for a moment, and outlives its source."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

#: For so long a result is given to others (DESIGN §8: never more than 250 ms behind the table), less what asking takes.
SHARED_S = 0.2
#: From this part of that on, who takes a result has the next one asked for beside: so that nobody has to wait for it.
AHEAD = 0.75
#: Different questions that are remembered, the oldest forgotten first.
REMEMBERED = 512
#: Who has an older result waits so long for a new one, or as many times as long as asking took the last time.
PATIENCE_S, SLOWER = 0.3, 2
#: An older result than this is given instead of a new one only when asking has failed.
RECENT_S = 10.0
#: After a failure nobody asks for so long.
REST_S = 1.0


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A result, and how many seconds ago it was asked for.

    `stale`: it is the last known one, for asking failed. `late`: it is a recent one, for asking takes longer than it
    should, and nobody knows yet how it ends.
    """

    value: T
    age_s: float
    stale: bool = False
    late: bool = False


@dataclass
class _Known(Generic[T]):
    value: T
    asked_at: float
    took_s: float
    ask: Callable[[], Awaitable[T]]
    failed_at: float | None = None  # when asking for a newer one failed, where nothing has succeeded since


@dataclass(frozen=True)
class _Asking(Generic[T]):
    task: asyncio.Task[_Known[T]]
    began: float


class Shared(Generic[T]):
    """Results by question. Of many who ask the same at once, one asks and the others wait for that.

    `failures` are the exceptions after which the last known result is given instead, however old; where there is none,
    they are raised. A result that is known also bounds the wait: while its source has failed, or only just fails to
    answer, it goes out and somebody asks beside. For one event loop.
    """

    def __init__(
        self,
        failures: type[Exception] | tuple[type[Exception], ...],
        shared_s: float = SHARED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures, self._shared_s, self._clock = failures, shared_s, clock
        self._known: OrderedDict[Hashable, _Known[T]] = OrderedDict()
        self._asking: dict[Hashable, _Asking[T]] = {}

    def fresh(self, question: Hashable) -> T | None:
        """The result, where it is young enough to be given without asking; no waiting."""
        known = self._known.get(question)
        return known.value if known and self._is_young(question, known) else None

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> Answer[T]:
        """The result of a question, at most `shared_s` old, or one that is known. Raises one of `failures`."""
        known = self._known.get(question)
        if known:
            if self._is_young(question, known):
                return Answer(known.value, self._clock() - known.asked_at)
            if known.failed_at is not None and self._clock() - known.failed_at < REST_S:
                return self._instead(known)
        asking = self._asking.get(question) or self._begin(question, ask)
        if known and not await self._in_time(asking, known):
            return self._instead(known)
        try:
            # who goes away, takes no answer from the others
            found = await asyncio.shield(asking.task)
        except self._failures:
            if known is None:
                raise
            return Answer(known.value, self._clock() - known.asked_at, stale=True)
        return Answer(found.value, self._clock() - found.asked_at)

    def _is_young(self, question: Hashable, known: _Known[T]) -> bool:
        """Whether a result may still be given; where it soon may not, the next one is asked for beside."""
        age = self._clock() - known.asked_at
        if AHEAD * self._shared_s <= age < self._shared_s and known.failed_at is None and question not in self._asking:
            self._begin(question, known.ask)
        return age < self._shared_s

    def _instead(self, known: _Known[T]) -> Answer[T]:
        failed = known.failed_at is not None
        return Answer(known.value, self._clock() - known.asked_at, stale=failed, late=not failed)

    async def _in_time(self, asking: _Asking[T], known: _Known[T]) -> bool:
        """Waits for asking to end, as long as one may who has a result to give instead; False: it has not."""
        if not self._failures:  # a result is never given instead
            return True
        now = self._clock()
        if known.failed_at is None and now - known.asked_at > RECENT_S:
            return True
        left = asking.began + max(PATIENCE_S, SLOWER * known.took_s) - now
        done, _ = await asyncio.wait([asking.task], timeout=max(0, left))
        return bool(done)

    def _begin(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> _Asking[T]:
        task = asyncio.ensure_future(self._ask(question, ask))
        self._asking[question] = asking = _Asking(task, self._clock())
        task.add_done_callback(lambda done: self._ended(question, done))
        return asking

    def _ended(self, question: Hashable, task: asyncio.Task[_Known[T]]) -> None:
        self._asking.pop(question, None)
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more

    async def _ask(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> _Known[T]:
        asked_at = self._clock()  # before: what is written meanwhile may not be in it
        try:
            value = await ask()
        except self._failures:
            if last := self._known.get(question):
                last.failed_at = self._clock()
            raise
        known = _Known(value, asked_at, self._clock() - asked_at, ask)
        self._known[question] = known
        self._known.move_to_end(question)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known
