from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from b3_pipeline.errors import B3Error
from b3_pipeline.processes import Child, Program
from b3_pipeline.supervision import BackOff, Server, Supervisor, stop
from b3_pipeline_tests.waiting import gone, until

SLEEP = "import time; print('at work', flush=True); time.sleep(60)"

PARENT = (
    "import subprocess, sys, time;"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print('at work', child.pid, flush=True); time.sleep(60)"
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A supervised program of the test's, with a clock, a health and a list of what was said."""

    def __init__(self, home: Path) -> None:
        self.home, self.clock, self.is_healthy, self.code = home, Clock(), True, SLEEP
        self.said: list[str] = []
        self.counts: list[dict[str, int]] = []
        self.fails: Exception | None = None
        self.server = Server("server", self._start, lambda _child: self.is_healthy, timeout_s=30)
        self.server.start()
        (home / "logs").mkdir(exist_ok=True)
        rule = BackOff(alarm_after=4)
        told = self.counts.append
        self.supervisor = Supervisor([self.server], home / "logs", self.said.append, told, rule, self.clock)

    def _start(self) -> Child:
        if self.fails:
            raise self.fails
        return Child(Program("server", [sys.executable, "-c", self.code], Path("/"), {"PATH": os.defpath}), self.home)

    @property
    def child(self) -> Child:
        assert self.server.child is not None
        return self.server.child

    def kill(self) -> None:
        until(lambda: "at work" in self.child.tail())
        os.kill(self.child.pid, signal.SIGKILL)
        until(lambda: not self.child.alive)

    def look(self, after: float = 0) -> None:
        self.clock.now += after
        self.supervisor.look()


@pytest.fixture
def watched(tmp_path: Path):
    watched = Watched(tmp_path)
    yield watched
    stop([watched.server])


def test_the_pauses_double_up_to_the_longest() -> None:
    rule = BackOff(alarm_after=100)
    assert [rule.pause(n) for n in (1, 2, 3, 6, 7, 50)] == [1, 2, 4, 32, 60, 60]
    assert BackOff(alarm_after=3).pause(3) == 60


def test_a_server_that_runs_is_left_alone(watched: Watched) -> None:
    pid = watched.child.pid
    watched.look(after=1_000)
    assert watched.child.pid == pid
    assert watched.said == []


def test_a_server_that_crashed_is_started_again_after_its_pause_and_counts_once_it_is_healthy(watched: Watched) -> None:
    watched.is_healthy = False
    watched.kill()
    watched.look()
    assert "server ended with code -9" in watched.said[0]
    assert "at work" in watched.said[0], "the log's last lines are told"
    assert "started again in 1 s" in watched.said[0]
    assert watched.server.child is None
    watched.look(after=0.9)
    assert watched.server.child is None
    watched.look(after=0.2)
    assert watched.child.alive
    assert watched.counts == [{"server": 1}]
    watched.look()
    assert len(watched.said) == 1, "not up before it is healthy"
    watched.is_healthy = True
    watched.look()
    assert watched.said[1] == "server is up again."
    log = (watched.home / "logs" / "restarts.log").read_text()
    assert "ended with code -9" in log
    assert "at work" in log


def test_a_crash_whose_log_is_gone_is_a_crash_like_any_other(watched: Watched) -> None:
    watched.kill()
    watched.child.log.unlink()
    watched.look()
    watched.look(after=1.1)
    assert watched.child.alive


def test_a_server_that_cannot_be_put_away_does_not_end_the_supervision(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(_child: Child) -> None:
        raise subprocess.TimeoutExpired("server", 10)

    watched.kill()
    with monkeypatch.context() as patched:
        patched.setattr(Child, "forget", hangs)
        watched.look()
    assert "started again in 1 s" in watched.said[0]
    watched.look(after=1.1)
    assert watched.child.alive


def test_after_some_crashes_in_a_row_people_are_told_what_to_do_and_it_goes_on_trying(watched: Watched) -> None:
    pauses = []
    for _ in range(5):
        watched.kill()
        watched.look()
        pauses.append(int(watched.said[-1].partition("started again in ")[2].split()[0]))
        assert ("b3 doctor" in watched.said[-1]) == (len(pauses) >= 4)
        watched.look(after=pauses[-1])
        watched.look()
    assert pauses == [1, 2, 4, 60, 60]
    assert watched.supervisor.restarts == {"server": 5}


def test_some_minutes_of_health_are_a_new_beginning(watched: Watched) -> None:
    for _ in range(2):
        watched.kill()
        watched.look()
        watched.look(after=2)
        watched.look()
    watched.look(after=299)
    watched.look(after=1)
    watched.kill()
    watched.look()
    assert "again in 1 s" in watched.said[-1]


def test_a_server_that_comes_up_and_never_gets_healthy_is_stopped_and_tried_again(watched: Watched) -> None:
    watched.is_healthy = False
    watched.kill()
    watched.look()
    watched.look(after=1)
    sick = watched.child
    watched.look(after=31)
    assert not sick.alive
    assert "not healthy after 30 s" in watched.said[-1]
    assert "started again in 2 s" in watched.said[-1]


@pytest.mark.parametrize("error", [B3Error("Port 1 is used"), OSError("no such program")])
def test_a_start_that_fails_is_one_more_crash_and_no_end(watched: Watched, error: Exception) -> None:
    watched.kill()
    watched.look()
    watched.fails = error
    watched.look(after=1)
    assert f"server could not be started: {error}" in watched.said[-1]
    assert "again in 2 s" in watched.said[-1]
    watched.fails = None
    watched.look(after=2)
    assert watched.child.alive


def test_what_a_crashed_server_left_is_ended_before_it_starts_again(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.code = PARENT
    stop([watched.server])
    watched.server.start()
    try:
        until(lambda: "at work" in watched.child.tail())
        orphan = int(watched.child.tail().split()[-1])
        watched.kill()
        watched.look()
        until(lambda: gone(orphan))
    finally:
        stop([watched.server])


def test_a_server_is_started_again_though_nothing_can_be_written_about_it(watched: Watched) -> None:
    def full(_news: object) -> None:
        raise OSError("No space left on device")

    watched.supervisor = Supervisor([watched.server], watched.home / "nowhere", full, full, clock=watched.clock)
    watched.kill()
    watched.look()
    watched.look(after=1)
    watched.look()
    assert watched.child.alive
    assert watched.supervisor.restarts == {"server": 1}


def test_ctrl_c_ends_the_watch_at_once_also_while_a_server_is_down(watched: Watched) -> None:
    watched.kill()
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits none
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            watched.supervisor.watch()
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()
