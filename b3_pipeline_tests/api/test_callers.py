"""Who calls the legacy routes: counted by address and agent, bounded, and not lost while PostgreSQL is away."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from b3_pipeline.api import callers as counting
from b3_pipeline.api.callers import DIFFERENT, OTHER, Callers, keep
from b3_pipeline.api.service import Service
from b3_pipeline.postgres.callers import recent

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


class Clock:
    """A moment and a monotonic time that stand until they are moved, both together."""

    def __init__(self) -> None:
        self.now, self.monotonic = NOW, 0.0

    def moved(self, **by: float) -> None:
        self.now += timedelta(**by)
        self.monotonic += timedelta(**by).total_seconds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def callers(clock: Clock) -> Callers:
    return Callers(lambda: clock.now, lambda: clock.monotonic)


@pytest.fixture
def dsn(postgres: str) -> str:
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("drop table if exists b3.legacy_callers")
    return postgres


def scope(address: str | None = "10.0.0.1", agent: bytes | None = b"curl/8") -> dict[str, Any]:
    headers = [(b"host", b"x"), *([(b"user-agent", agent)] if agent is not None else [])]
    return {"client": (address, 1234) if address else None, "headers": headers}


def counts(callers: Callers) -> dict[tuple[str, str, str], int]:
    return {calls.key[1:]: calls.count for calls in callers.taken()}


def test_calls_are_counted_by_address_agent_and_route(callers: Callers) -> None:
    for _time in range(3):
        callers.called(scope(), "/gamma")
    callers.called(scope(), "/status")
    callers.called(scope(agent=b"Excel"), "/gamma")
    callers.called(scope(address=None, agent=None), "/gamma")
    assert counts(callers) == {
        ("10.0.0.1", "curl/8", "/gamma"): 3,
        ("10.0.0.1", "curl/8", "/status"): 1,
        ("10.0.0.1", "Excel", "/gamma"): 1,
        ("", "", "/gamma"): 1,
    }
    assert counts(callers) == {}


def test_an_agent_is_one_short_line(callers: Callers) -> None:
    for tail in (b"1", b"2"):  # they differ beyond what is kept
        callers.called(scope(agent=b"a" * 150 + tail), "/gamma")
    callers.called(scope(agent=b"x\x00\x85\xe9"), "/gamma")
    assert counts(callers) == {("10.0.0.1", "a" * 120, "/gamma"): 2, ("10.0.0.1", "x??é", "/gamma"): 1}


def test_of_too_many_different_callers_the_others_are_one(callers: Callers) -> None:
    for number in range(DIFFERENT + 50):
        callers.called(scope(f"10.0.{number // 256}.{number % 256}"), "/gamma")
        callers.called(scope("10.0.0.0"), "/gamma")
    found = counts(callers)
    assert len(found) == DIFFERENT + 1
    assert found[OTHER, OTHER, "/gamma"] == 50
    assert found["10.0.0.0", "curl/8", "/gamma"] == DIFFERENT + 51
    for number in range(5_000):  # and nothing grows by agents that look alike
        callers.called(scope("10.0.0.0", b"%05d" % number), "/gamma")
    assert len(callers._by_caller) <= DIFFERENT + 1


def test_a_day_ends_with_its_own_count(callers: Callers, clock: Clock, dsn: str) -> None:
    callers.called(scope(), "/gamma")
    clock.moved(minutes=30)
    callers.called(scope(), "/gamma")
    clock.moved(days=3)  # Friday
    callers.called(scope(), "/gamma")
    clock.moved(days=1)  # Saturday belongs to Friday's session
    callers.called(scope(), "/gamma")
    keep(dsn, callers.taken())
    found = [(c.session, c.count, c.first_at, c.last_at) for c in recent(dsn, date(2025, 10, 1))]
    friday = NOW + timedelta(days=3, minutes=30)
    assert found == [
        (date(2025, 10, 17), 2, friday, friday + timedelta(days=1)),
        (date(2025, 10, 14), 2, NOW, NOW + timedelta(minutes=30)),
    ]


def test_what_could_not_be_kept_is_kept_later_and_nothing_twice(
    callers: Callers, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> list[bool]:
        service = SimpleNamespace(postgres_dsn="postgresql://u:hunter2@127.0.0.1:1/x")
        outcomes = []
        for where in (service.postgres_dsn, None, dsn, dsn):
            callers.called(scope(), "/gamma")
            service.postgres_dsn = where
            outcomes.append(await counting._keep_once(callers, cast(Service, service)))
        return outcomes

    assert asyncio.run(work()) == [False, False, True, True]
    assert [caller.count for caller in recent(dsn, date(2025, 10, 1))] == [4]
    assert "hunter2" not in caplog.text


def test_what_waits_is_bounded_and_what_is_lost_is_counted(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "WAITING", 2)
    for number in range(4):
        for _time in range(2):
            callers.called(scope(f"10.0.0.{number}"), "/gamma")
    assert sum(calls.count for calls in callers.taken()) == 4
    assert callers.lost == 4


def test_the_block_keeps_what_was_counted_while_it_goes_and_at_its_end(dsn: str) -> None:
    async def work() -> int:
        service = cast(Service, SimpleNamespace(postgres_dsn=dsn, now=lambda: NOW))
        async with counting.counting(service, every_s=0.01) as callers:
            callers.called(scope(), "/gamma")
            while not await asyncio.to_thread(recent, dsn, date(2025, 10, 1)):
                await asyncio.sleep(0)
            callers.called(scope(), "/gamma")
        return sum(caller.count for caller in recent(dsn, date(2025, 10, 1)))

    assert asyncio.run(asyncio.wait_for(work(), 60)) == 2
