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
#: Different questions that are remembered, the oldest forgotten first.
REMEMBERED = 512


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A result, and how many seconds ago it was asked for. `stale`: it is the last known one, for asking failed now."""

    value: T
    age_s: float
    stale: bool = False


@dataclass
class _Known(Generic[T]):
    value: T
    asked_at: float


class Shared(Generic[T]):
    """Results by question. Of many who ask the same at once, one asks and the others wait for that.

    `failures` are the exceptions after which the last known result is given instead, however old; where there is none,
    they are raised. For one event loop.
    """

    def __init__(
        self,
        failures: type[Exception] | tuple[type[Exception], ...],
        shared_s: float = SHARED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures, self._shared_s, self._clock = failures, shared_s, clock
        self._known: OrderedDict[Hashable, _Known[T]] = OrderedDict()
        self._asking: dict[Hashable, asyncio.Task[_Known[T]]] = {}

    def fresh(self, question: Hashable) -> T | None:
        """The result, where it is young enough to be given without asking; no waiting."""
        known = self._known.get(question)
        return known.value if known and self._clock() - known.asked_at < self._shared_s else None

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> Answer[T]:
        """The result of a question, at most `shared_s` old, or the last known one. Raises one of `failures`."""
        known = self._known.get(question)
        if known and (age := self._clock() - known.asked_at) < self._shared_s:
            return Answer(known.value, age)
        task = self._asking.get(question)
        if task is None:
            task = asyncio.ensure_future(self._ask(question, ask))
            self._asking[question] = task
            task.add_done_callback(lambda _done: self._asking.pop(question, None))
        try:
            # who goes away, takes no answer from the others
            known = await asyncio.shield(task)
        except self._failures:
            last = self._known.get(question)
            if last is None:
                raise
            return Answer(last.value, self._clock() - last.asked_at, stale=True)
        return Answer(known.value, self._clock() - known.asked_at)

    async def _ask(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> _Known[T]:
        asked_at = self._clock()  # before: what is written meanwhile may not be in it
        known = _Known(await ask(), asked_at)
        self._known[question] = known
        self._known.move_to_end(question)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known
