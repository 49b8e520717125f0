"""The fence: writes in, steps alone, and of note and flag the newer one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from b3_pipeline.lowdb import fence as module
from b3_pipeline.lowdb.fence import Fence, Note, Switching, WritesGoOn
from b3_pipeline.postgres.flags import DEFAULTS, Current, Entry

T1 = datetime(2025, 10, 14, 11, tzinfo=UTC)
T2 = T1 + timedelta(hours=1)


def current(phase: str, since: datetime | None = None, *, stale: bool = False) -> Current:
    entries: Mapping[tuple[str, str], Entry] = {**DEFAULTS, ("ideas", "phase"): Entry("ideas", "phase", phase, since)}
    return Current(entries, stale)


def test_without_a_note_the_flag_says_which_phase_stands(tmp_path: Path) -> None:
    assert Fence(tmp_path).standing(current("legacy")) == Note("legacy", "")
    assert Fence(tmp_path).standing(current("active", T1)) == Note("active", T1.isoformat())


def test_a_process_that_has_not_read_the_flag_since_heeds_the_note(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    fence.tell("active", T2)
    assert fence.standing(current("shadow", T1)).phase == "active"
    assert fence.standing(current("legacy")).phase == "active"


def test_a_flag_that_is_newer_than_the_note_counts(tmp_path: Path) -> None:
    Fence(tmp_path).tell("shadow", T1)
    assert Fence(tmp_path).standing(current("legacy", T2)).phase == "legacy"


def test_a_process_that_stood_still_heeds_the_note_however_old_that_is(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    fence.tell("active", T2)
    os.utime(tmp_path / "cutover" / "ideas-writes.json", (0, 0))
    for stale in (False, True):
        assert fence.standing(current("shadow", T1, stale=stale)).phase == "active"


def test_of_the_same_moment_the_flag_counts_unless_a_step_was_cut_off(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    fence.tell("shadow", T1)
    assert fence.standing(current("active", T1)).phase == "active"
    fence.tell("shadow", T1, moving=True)
    assert fence.standing(current("shadow", T1)).moving


def test_writes_go_on_side_by_side_and_a_step_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAINED_WITHIN_S", 0.05)
    fence = Fence(tmp_path)

    async def story() -> None:
        async with fence.entered(), Fence(tmp_path).entered():
            with pytest.raises(WritesGoOn), fence.closed():
                pytest.fail("a write was under way")
        with fence.closed():
            pass

    asyncio.run(story())


def test_a_write_waits_for_a_short_step_and_is_refused_by_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = Fence(tmp_path)

    async def enter() -> str:
        async with fence.entered():
            return "in"

    async def story() -> None:
        with fence.closed():
            waiting = asyncio.create_task(enter())
            await asyncio.sleep(0.05)
            assert not waiting.done()
        assert await waiting == "in"
        monkeypatch.setattr(module, "HELD_S", 0.03)
        with fence.closed(), pytest.raises(Switching, match="Try again in a second"):
            await enter()

    asyncio.run(story())


def test_a_step_that_waits_comes_before_writes_that_are_yet_to_come(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    order: list[str] = []

    def step() -> None:
        with fence.closed():
            order.append("step")

    async def write(name: str) -> None:
        async with fence.entered():
            order.append(name)

    async def story() -> None:
        async with fence.entered():
            stepping = asyncio.create_task(asyncio.to_thread(step))
            await asyncio.sleep(0.1)  # it holds the door now, for nobody else does
            later = asyncio.create_task(write("later"))
            await asyncio.sleep(0.05)
            assert order == []
        await asyncio.gather(stepping, later)

    asyncio.run(story())
    assert order == ["step", "later"]
