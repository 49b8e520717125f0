"""One answer for many: who waits, for how long, and what goes out when the source fails or is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from b3_pipeline.api import sharing
from b3_pipeline.api.sharing import AHEAD, RECENT_S, REMEMBERED, REST_S, SHARED_S, Answer, Shared

SHORT = 0.02


class Source:
    """Answers with its number of questions; fails, or waits until it is let go, when told so."""

    def __init__(self) -> None:
        self.asked, self.failing, self.open = 0, False, asyncio.Event()
        self.open.set()

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await self.open.wait()
        if self.failing:
            raise OSError("away")
        return number


Story = Callable[[Source, Shared[int], list[float]], Awaitable[None]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[Story], None]:
    """Runs a story of a source, what is shared of it, and the time that has passed (seconds)."""
    monkeypatch.setattr(sharing, "PATIENCE_S", SHORT)

    async def run(story: Story) -> None:
        passed = [0.0]
        await story(Source(), Shared(OSError, clock=lambda: passed[0]), passed)

    return lambda story: asyncio.run(run(story))


async def soon(work: Coroutine[Any, Any, Answer[int]]) -> Answer[int]:
    """What is given without waiting for a source that is silent."""
    return await asyncio.wait_for(work, 5)


def test_of_many_who_ask_the_same_one_asks(told: Callable[[Story], None]) -> None:
    async def story(source: Source, shared: Shared[int], _passed: list[float]) -> None:
        found = await asyncio.gather(*(shared.get("q", source.ask) for _ in range(50)))
        assert {answer.value for answer in found} == {1} == {source.asked}

    told(story)


def test_a_result_that_will_soon_be_too_old_is_given_while_one_asks_for_the_next(told: Callable[[Story], None]) -> None:
    async def story(source: Source, shared: Shared[int], passed: list[float]) -> None:
        await shared.get("?", source.ask)
        passed[0] = SHARED_S * AHEAD
        source.open.clear()
        assert [shared.fresh("?"), shared.fresh("?"), (await soon(shared.get("?", source.ask))).value] == [1, 1, 1]
        await asyncio.sleep(0)
        assert source.asked == 2
        source.open.set()
        passed[0] = SHARED_S
        assert (await soon(shared.get("?", source.ask))).value == 2

    told(story)


def test_after_a_failure_the_last_known_is_given_at_once_and_nobody_asks_for_a_second(
    told: Callable[[Story], None],
) -> None:
    async def story(source: Source, shared: Shared[int], passed: list[float]) -> None:
        await shared.get("q", source.ask)
        source.failing, passed[0] = True, 30
        assert await shared.get("q", source.ask) == Answer(1, 30, stale=True)
        source.open.clear()
        for passed[0] in (30.1, 30.9):
            assert await soon(shared.get("q", source.ask)) == Answer(1, passed[0], stale=True)
        assert source.asked == 2
        source.open.set()
        source.failing, passed[0] = False, 30 + REST_S
        assert await shared.get("q", source.ask) == Answer(3, 0)

    told(story)


def test_who_asks_a_source_that_has_failed_and_is_silent_now_gets_the_last_known_while_one_asks(
    told: Callable[[Story], None],
) -> None:
    async def story(source: Source, shared: Shared[int], passed: list[float]) -> None:
        await shared.get("q", source.ask)
        source.failing, passed[0] = True, 100
        await shared.get("q", source.ask)
        source.open.clear()
        passed[0] = 200
        assert await soon(shared.get("q", source.ask)) == Answer(1, 200, stale=True)
        passed[0] = 201
        assert await soon(shared.get("q", source.ask)) == Answer(1, 201, stale=True)
        assert source.asked == 3
        source.failing = False
        source.open.set()

    told(story)


def test_a_silent_source_is_not_waited_for_where_a_recent_answer_is_known_which_is_late_but_not_stale(
    told: Callable[[Story], None],
) -> None:
    async def story(source: Source, shared: Shared[int], passed: list[float]) -> None:
        await shared.get("q", source.ask)
        source.open.clear()
        passed[0] = 2
        assert await soon(shared.get("q", source.ask)) == Answer(1, 2, late=True)
        source.open.set()

    told(story)


@pytest.mark.parametrize(("took", "age"), [(0, RECENT_S + 1), (RECENT_S - 2, 1)])
def test_a_slow_answer_is_waited_for_where_the_known_one_is_old_or_asking_has_always_taken_long(
    told: Callable[[Story], None], took: float, age: float
) -> None:
    async def story(source: Source, shared: Shared[int], passed: list[float]) -> None:
        source.open.clear()
        first = asyncio.ensure_future(shared.get("q", source.ask))
        while not source.asked:
            await asyncio.sleep(0)
        passed[0] += took
        source.open.set()
        await first
        source.open.clear()
        passed[0] += age
        second = asyncio.ensure_future(shared.get("q", source.ask))
        done, _ = await asyncio.wait([second], timeout=10 * SHORT)
        assert not done
        source.open.set()
        assert (await second).value == 2

    told(story)


def test_where_nothing_is_known_the_failure_is_raised(told: Callable[[Story], None]) -> None:
    async def story(source: Source, shared: Shared[int], _passed: list[float]) -> None:
        source.failing = True
        with pytest.raises(OSError, match="away"):
            await shared.get("q", source.ask)

    told(story)


def test_without_failures_to_outlive_a_source_is_always_waited_for() -> None:
    async def story() -> None:
        source, passed = Source(), [0.0]
        shared = Shared[int]((), clock=lambda: passed[0])
        await shared.get("q", source.ask)
        source.open.clear()
        passed[0] = 1
        second = asyncio.ensure_future(shared.get("q", source.ask))
        done, _ = await asyncio.wait([second], timeout=2 * sharing.PATIENCE_S)
        assert not done
        source.open.set()
        assert (await second).value == 2

    asyncio.run(story())


def test_so_many_questions_are_remembered(told: Callable[[Story], None]) -> None:
    async def story(source: Source, shared: Shared[int], _passed: list[float]) -> None:
        for question in range(REMEMBERED + 1):
            await shared.get(question, source.ask)
        assert shared.fresh(0) is None
        assert shared.fresh(REMEMBERED) == REMEMBERED + 1

    told(story)
