"""The pool of read-only connections: what it says when QuestDB is away, hangs, or refuses a question."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import psycopg
import pytest

from b3_pipeline import asking
from b3_pipeline.api import store as module
from b3_pipeline.api.sharing import Shared
from b3_pipeline.api.store import Store, StoreAway
from b3_pipeline.questdb.client import Address
from b3_pipeline_tests.api.silent import Line, line_to, refused_port, silent_port

#: A server of the tests is on a busy machine: what should take no time takes less than this.
SOON_S = 1.0


@pytest.mark.parametrize("away", [silent_port, refused_port])
def test_without_questdb_who_asks_is_told_so_in_the_time_of_a_connection(
    questdb: Address, away: Callable[[], AbstractContextManager[int]]
) -> None:
    async def story(port: int) -> float:
        async with Store(replace(questdb, pg_port=port)) as store:
            began = time.monotonic()
            with pytest.raises(StoreAway):
                await store.rows("select 1")
            return time.monotonic() - began

    with away() as port:
        assert asyncio.run(story(port)) < module.WAIT_S + SOON_S


def test_a_question_that_hangs_ends_in_its_time_and_its_connection_is_closed(
    questdb: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.5)

    async def story(line: Line) -> None:
        async with Store(replace(questdb, pg_port=line.port), size=1) as store:
            assert await store.rows("select 1 x") == [{"x": 1}]
            line.cut.set()
            began = time.monotonic()
            with pytest.raises(StoreAway):
                await store.rows("select 2 x")
            assert time.monotonic() - began < 0.5 + SOON_S
            line.cut.clear()
            monkeypatch.setattr(module, "ANSWER_S", 5.0)
            while True:  # the one connection is free again as soon as the one that hangs is closed
                try:
                    assert await store.rows("select 3 x") == [{"x": 3}]
                    break
                except StoreAway:
                    assert time.monotonic() - began < 20

    with line_to(questdb) as line:
        asyncio.run(story(line))


def test_a_store_whose_questions_hang_is_closed_soon(questdb: Address) -> None:
    async def story(line: Line) -> float:
        async with Store(replace(questdb, pg_port=line.port)) as store:
            await store.rows("select 1")
            line.cut.set()
            asking = asyncio.ensure_future(store.rows("select 2"))
            await asyncio.sleep(0.1)
            asking.cancel()
            began = time.monotonic()
        return time.monotonic() - began

    with line_to(questdb) as line:
        assert asyncio.run(story(line)) < 2 * asking.CANCEL_S + 1 + SOON_S


@pytest.mark.parametrize("away", [silent_port, refused_port])
def test_what_is_known_goes_out_at_once_while_questdb_is_away_and_anew_when_it_is_back(
    questdb: Address, away: Callable[[], AbstractContextManager[int]]
) -> None:
    async def story(port: int) -> None:
        passed = [0.0]
        shared = Shared[int](StoreAway, clock=lambda: time.monotonic() + passed[0])
        async with Store(questdb) as here, Store(replace(questdb, pg_port=port)) as gone:

            async def ask(store: Store) -> int:
                return (await store.rows("select 1 x"))[0]["x"]

            assert not (await shared.get("q", lambda: ask(here))).stale
            passed[0] += 3_600
            assert (await shared.get("q", lambda: ask(gone))).stale  # it is old: asking is waited for, once
            for _ in range(10):
                passed[0] += 0.5
                began = time.monotonic()
                found = await shared.get("q", lambda: ask(gone))
                assert (found.value, found.stale) == (1, True)
                assert time.monotonic() - began < 0.3 + 0.5
            while (await shared.get("q", lambda: ask(here))).stale:
                passed[0] += 0.5

    with away() as port:
        asyncio.run(story(port))


def test_a_question_that_questdb_refuses_is_a_defect_of_ours_and_no_outage(questdb: Address) -> None:
    async def story() -> None:
        async with Store(questdb) as store:
            with pytest.raises(psycopg.DatabaseError, match="nothing_of_ours"):
                await store.rows("select * from nothing_of_ours")
            assert await store.rows("select 1 x") == [{"x": 1}]

    asyncio.run(story())


@pytest.mark.parametrize("count", [0, 1, 7, 8, 21])
def test_rows_that_are_made_in_turns_are_all_there_in_their_order(
    questdb: Address, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(module, "_BATCH", 7)

    async def story() -> list[int]:
        async with Store(questdb) as store:
            return [row["x"] for row in await store.rows("select x from long_sequence(50) where x <= %s", count)]

    assert asyncio.run(story()) == list(range(1, count + 1))
