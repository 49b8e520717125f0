"""Counting who calls the legacy routes: in memory at each call, every few seconds into PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from b3_pipeline.api.service import Service
from b3_pipeline.errors import B3Error
from b3_pipeline.postgres import callers as kept
from b3_pipeline.postgres.callers import Caller
from b3_pipeline.sessions import session_of, to_local

#: What was counted since, a crash loses.
KEEP_EVERY_S = 3.0
#: Different pairs of address and agent that a process tells apart in a day; all others are one.
DIFFERENT = 1_000
OTHER = "other"
LONGEST_AGENT = 120
#: Rows that wait for PostgreSQL; beyond, calls are counted as lost.
WAITING = 10_000
#: Nobody looks at the clock for each of thousands of calls a second.
CLOCK_S = 0.5

_log = logging.getLogger(__name__)
Key = tuple[date, str, str, str]


@dataclass
class _Calls:
    key: Key
    count: int
    first: datetime
    last: datetime


class Callers:
    """The calls of one process. `called` and `taken` are for its event loop, `keep` for any thread.

    A caller is an address and an agent; days are local ones here, and sessions once they are kept.
    """

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0
        self._clock, self._monotonic = now, monotonic
        self._now, self._day = now(), to_local(now()).date()
        self._looked = monotonic()
        self._by_caller: dict[tuple[str, bytes, str], _Calls] = {}
        self._told_apart: set[tuple[str, str]] = set()
        self._waiting: dict[Key, _Calls] = {}

    def called(self, scope: MutableMapping[str, Any], route: str) -> None:
        """Counts a call by its ASGI scope."""
        client = scope.get("client")
        address = client[0] if client else ""
        agent = b""
        for name, value in scope["headers"]:
            if name == b"user-agent":
                agent = value
                break
        if self._monotonic() - self._looked >= CLOCK_S:
            self._look()
        calls = self._by_caller.get((address, agent, route)) or self._of(address, agent, route)
        if not calls.count:
            calls.first = self._now
        calls.count += 1
        calls.last = self._now

    def _look(self) -> None:
        self._looked = self._monotonic()
        with suppress(B3Error):  # a clock that cannot be read stands
            self._now = self._clock()
        day = to_local(self._now).date()
        if day != self._day:
            self._put_aside()
            self._by_caller.clear()
            self._told_apart.clear()
            self._day = day

    def _of(self, address: str, agent: bytes, route: str) -> _Calls:
        """The calls of a caller that was not met yet today: of its own, or those of all others."""
        caller = _shown(address, 64), _shown(agent.decode("latin-1"), LONGEST_AGENT)
        known = caller in self._told_apart or len(self._told_apart) < DIFFERENT
        if not known:
            caller = OTHER, OTHER
        else:
            self._told_apart.add(caller)
        # by what is shown: of the many agents that look alike once they are shortened, not each is remembered
        raw = caller[0], caller[1].encode("latin-1", "replace"), route
        return self._by_caller.setdefault(
            raw, _Calls((self._day, caller[0], caller[1], route), 0, self._now, self._now)
        )

    def _put_aside(self) -> None:
        for calls in self._by_caller.values():
            if calls.count:
                self._add(replace(calls))
                calls.count = 0

    def _add(self, calls: _Calls) -> None:
        known = self._waiting.get(calls.key)
        if known is not None:
            known.count += calls.count
            known.first, known.last = min(known.first, calls.first), max(known.last, calls.last)
        elif len(self._waiting) < WAITING:
            self._waiting[calls.key] = calls
        else:
            self.lost += calls.count

    def taken(self) -> list[_Calls]:
        """What was counted since it was taken last; who cannot keep it gives it back."""
        self._put_aside()
        taken, self._waiting = list(self._waiting.values()), {}
        return taken

    def give_back(self, calls: Iterable[_Calls]) -> None:
        """Takes back what could not be kept."""
        for each in calls:
            self._add(each)


def _shown(text: str, longest: int) -> str:
    """A text of somebody else's as one short line."""
    return "".join(c if c.isprintable() else "?" for c in text[:longest])


def keep(dsn: str, calls: Iterable[_Calls]) -> None:
    """Keeps calls in PostgreSQL, under the sessions of their days. Raises CallersError."""
    rows = []
    for each in calls:
        day, address, agent, route = each.key
        rows.append(Caller(session_of(day), address, agent, route, each.count, each.first, each.last))
    kept.add(dsn, rows)


@asynccontextmanager
async def counting(service: Service, every_s: float = KEEP_EVERY_S) -> AsyncIterator[Callers]:
    """Counts for the length of the block, and keeps what was counted every few seconds, and at the end."""
    callers = await asyncio.to_thread(Callers, service.now)
    ended = asyncio.Event()
    keeping = asyncio.create_task(_keep_on(callers, service, every_s, ended))
    try:
        yield callers
    finally:
        ended.set()
        await keeping


async def _keep_on(callers: Callers, service: Service, every_s: float, ended: asyncio.Event) -> None:
    while not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), every_s)
        await _keep_once(callers, service)


async def _keep_once(callers: Callers, service: Service) -> bool:
    """Whether what was counted is kept now. While PostgreSQL is away, it waits here."""
    calls = callers.taken()
    if service.postgres_dsn is None or not calls:
        callers.give_back(calls)
        return not calls
    try:
        await asyncio.to_thread(keep, service.postgres_dsn, calls)
    except B3Error as error:
        callers.give_back(calls)
        _log.warning("Who called is not kept yet: %s", error)
        return False
    return True
