"""kill -9 at each named step, then the same command: the same end state as if nothing had happened."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline import migration_log
from b3_pipeline.cutover import advance, journal, link, rollback
from b3_pipeline.failpoints import VARIABLE
from b3_pipeline.postgres.flags import Flags
from b3_pipeline_tests.cutover.conftest import Office
from b3_pipeline_tests.cutover.test_rollback import live
from b3_pipeline_tests.faults import some

pytestmark = pytest.mark.slow
SOURCES = Path(advance.__file__).parent


def run(step: str, *arguments: str) -> int:
    env = {**os.environ, VARIABLE: step}
    command = [sys.executable, "-m", "b3_pipeline", "cutover", *arguments]
    return subprocess.run(command, env=env, capture_output=True, timeout=120, check=False).returncode


def state(office: Office) -> tuple[Any, ...]:
    """All that a step or a rollback is to leave behind."""
    flags = Flags(office.home, office.dsn).current()
    steps = [(step["title"], step["outcome"]) for step in migration_log.steps(office.home)]
    shown = {path.name: path.read_bytes() for path in (office.home / "shadow").glob("*.*") if path.is_file()}
    moved = (flags.phase(), flags.is_on("shadow_files"), link.current(office.home))
    return moved, steps, shown, office.files(), journal.under_way(office.home, "market")


def test_every_step_is_named_where_it_is_reached() -> None:
    sources = "".join(path.read_text("utf-8") for path in SOURCES.glob("*.py"))
    named = {step for moves in advance.MOVES.values() for step in moves.steps}
    named |= {step for way in rollback.WAYS.values() for step in way.steps}
    reached = set(re.findall(r'reached\("([^"]+)"\)', sources))
    assert reached <= named
    assert {step for step in named if ".json" not in step and ".csv" not in step} == reached


def test_a_step_that_is_killed_anywhere_is_finished_by_the_same_command(office: Office) -> None:
    arguments = ("advance", "--override", "--why", "a test")
    for step in some(advance.MOVES["market"].steps, 3):
        office.phase("shadow")
        assert run(step, *arguments) == -signal.SIGKILL, step
        assert run("", *arguments) == 0, step
        (phase, files, leads), steps, shown, _legacy, under_way = state(office)
        assert (phase, files, leads, under_way) == ("active", True, office.home / "shadow", None), step
        assert [outcome for _title, outcome in steps] == ["done"], step
        assert shown.keys() >= {"ajustes_b3.csv", "ultimo_dado.json"}
        for path in (office.home / migration_log.FOLDER).glob("*.md"):
            path.unlink()


def test_a_rollback_that_is_killed_anywhere_is_finished_by_the_same_command(office: Office) -> None:
    live(office)
    before = office.files()
    arguments = ("rollback", "--collectors-stopped", "--why", "a test")
    ends = []
    steps = some(rollback.STEPS, 3)
    for step in ("", *steps):
        for name, data in before.items():
            (office.legacy / name).write_bytes(data)
        office.phase("active")
        link.follow(office.settings, "active")
        if step:
            assert run(step, *arguments) == -signal.SIGKILL, step
        assert run("", *arguments) == 0, step
        ends.append(state(office))
        for path in (office.home / migration_log.FOLDER).glob("*.md"):
            path.unlink()
    assert [step for step, end in zip(steps, ends[1:], strict=True) if end != ends[0]] == []
    assert ends[0][0] == ("legacy", False, office.legacy)
