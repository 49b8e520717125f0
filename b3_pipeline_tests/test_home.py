from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from b3_pipeline.home import DiskFull, Holder, HomeBusy, State, hold, require_disk
from b3_pipeline.settings import Settings

HOLDING = """
import sys, time
from pathlib import Path
from b3_pipeline.home import State, hold
from b3_pipeline.settings import Settings
sys.argv = ["b3", sys.argv[2], "--token=hidden"]
with hold(Settings(home=Path({home!r})), shared={shared}) as held:
    held.reached(State({state!r}))
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def holding(settings: Settings, command: str, *, shared: bool, state: State) -> subprocess.Popen[str]:
    code = HOLDING.format(home=str(settings.home), shared=shared, state=state.value)
    process = subprocess.Popen([sys.executable, "-c", code, "x", command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


@pytest.mark.parametrize(
    ("command", "shared", "state", "advice", "open_to_us"),
    [
        ("migrate", False, State.ENGINES, "run `b3 up` first", False),
        ("up", True, State.STARTING, "still starting", False),
        ("up", True, State.ENGINES, "b3 down", True),
        ("up", True, State.READY, "b3 down", True),
        ("up", True, State.STOPPING, "b3 down", False),
    ],
)
def test_a_second_process_is_told_who_holds_the_home(
    settings: Settings, command: str, shared: bool, state: State, advice: str, open_to_us: bool
) -> None:
    with holding(settings, command, shared=shared, state=state) as process:
        try:
            with pytest.raises(HomeBusy) as error, hold(settings, shared=False):
                pass
            message = str(error.value)
            assert f"`b3 {command}` (pid {process.pid})" in message
            assert advice in message
            assert "hidden" not in message
            holder = Holder.of(settings.home)
            assert holder is not None
            assert holder.open_to_us is open_to_us
        finally:
            process.kill()


def test_a_killed_holder_holds_nothing(settings: Settings) -> None:
    with holding(settings, "up", shared=True, state=State.READY) as process:
        process.kill()
    assert Holder.of(settings.home) is None
    with hold(settings, shared=False) as held:
        assert held.holder.pid == os.getpid()


def test_the_home_is_free_after_the_block(settings: Settings) -> None:
    for _ in range(2):
        with hold(settings, shared=True):
            assert Holder.of(settings.home) is not None
        assert Holder.of(settings.home) is None


def test_a_process_may_use_the_databases_that_it_holds_itself(settings: Settings) -> None:
    with hold(settings, shared=False) as held:
        assert not held.holder.open_to_us
        held.reached(State.ENGINES)
        holder = Holder.of(settings.home)
        assert holder is not None
        assert holder.open_to_us


def test_too_little_disk_is_said_with_what_is_needed(settings: Settings) -> None:
    require_disk(settings)
    settings.min_free_disk_mb = 10**12
    with pytest.raises(DiskFull, match="B3_MIN_FREE_DISK_MB"):
        require_disk(settings)
