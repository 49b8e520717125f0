from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from b3_pipeline import leash, processes
from b3_pipeline.processes import LOG_LIMIT, Child, Program, Record, ServerDied, end_leftovers
from b3_pipeline_tests.waiting import gone, until

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)
PARENT = (
    "import subprocess, sys, time;"
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"
)


def program(code: str, name: str = "server") -> Program:
    return Program(name, [sys.executable, "-c", code], Path("/"), {"PATH": os.defpath})


@pytest.fixture
def start(tmp_path: Path):
    children: list[Child] = []

    def start(code: str, name: str = "server") -> Child:
        children.append(Child(program(code, name), tmp_path))
        return children[-1]

    yield start
    processes.stop(children, timeout_s=0.5)


def test_a_child_has_a_session_and_a_record_of_its_own(tmp_path: Path, start) -> None:
    child = start(SLEEP)
    assert os.getsid(child.pid) == child.pid
    record = Record.of(tmp_path, "server")
    assert record is not None
    assert record == child.record
    assert record.process() == psutil.Process(child.pid)
    assert record.argv[0] == sys.executable


def test_a_stopped_child_leaves_neither_process_nor_record(tmp_path: Path, start) -> None:
    child = start(SLEEP)
    processes.stop([child])
    assert not psutil.pid_exists(child.pid)
    assert Record.of(tmp_path, "server") is None


def test_a_child_that_ignores_the_polite_signal_is_killed(start) -> None:
    child = start(STUBBORN)
    until(lambda: "deaf" in child.tail())
    processes.stop([child], timeout_s=0.3)
    assert not psutil.pid_exists(child.pid)


def test_descendants_end_with_their_parent(start) -> None:
    child = start(PARENT)
    until(lambda: child.tail().strip().isdigit())
    grandchild = int(child.tail())
    processes.stop([child])
    until(lambda: gone(grandchild))


def test_several_children_share_one_time_limit(start) -> None:
    children = [start(STUBBORN, f"deaf-{n}") for n in range(4)]
    for child in children:
        until(lambda child=child: "deaf" in child.tail())
    processes.stop(children, timeout_s=0.3)
    assert not any(psutil.pid_exists(child.pid) for child in children)


def test_a_server_that_dies_at_its_start_is_reported_with_the_end_of_its_log(start) -> None:
    child = start("print('first', flush=True); raise SystemExit('no such volume')")
    with pytest.raises(ServerDied, match=r"server ended with code 1(?s:.)*first\nno such volume"):
        child.wait_until(lambda: False, 20)


def test_a_server_that_never_gets_healthy_is_reported(start) -> None:
    with pytest.raises(ServerDied, match="not healthy after 0 s"):
        start(SLEEP).wait_until(lambda: False, 0.1)


def test_the_end_of_the_log_is_of_this_run_only(tmp_path: Path, start) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "server.log").write_text("of yesterday\n")
    child = start("print('of today')")
    until(lambda: not child.alive)
    assert child.tail() == "of today"
    assert child.log.read_text() == "of yesterday\nof today\n"


def test_a_child_without_its_log_is_reported_all_the_same(start) -> None:
    child = start("raise SystemExit('no such volume')")
    until(lambda: not child.alive)
    child.log.unlink()
    assert child.tail() == ""
    assert "server ended with code 1" in str(child.died())


def test_a_log_over_the_limit_is_set_aside(tmp_path: Path, start) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "server.log").write_bytes(b"x" * (LOG_LIMIT + 1))
    child = start("print('new')")
    until(lambda: not child.alive)
    assert child.log.read_text() == "new\n"
    assert (tmp_path / "logs" / "server.log.1").stat().st_size == LOG_LIMIT + 1


def test_a_log_that_grows_over_the_limit_is_set_aside_while_its_program_writes_on(tmp_path: Path, start) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    child = start(f"print('x' * {LOG_LIMIT}, flush=True); open({str(go)!r}).read(); print('new')")
    until(lambda: child.log.stat().st_size > LOG_LIMIT)
    child.tend_log()
    assert child.log.stat().st_size == 0
    go.write_text("")
    until(lambda: not child.alive)
    assert child.log.read_text() == child.tail() + "\n" == "new\n"
    assert (tmp_path / "logs" / "server.log.1").stat().st_size == LOG_LIMIT + 1


def test_a_leftover_is_ended(tmp_path: Path, start) -> None:
    child = start(SLEEP)
    assert end_leftovers(tmp_path) == ["server"]
    assert gone(child.pid)
    assert list((tmp_path / "run").iterdir()) == []


def test_orphans_of_a_dead_leftover_are_ended(tmp_path: Path, start) -> None:
    child = start(PARENT)
    until(lambda: child.tail().strip().isdigit())
    orphan = int(child.tail())
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: not child.alive)
    assert not gone(orphan)
    assert end_leftovers(tmp_path) == ["server"]
    until(lambda: gone(orphan))


def test_a_process_that_only_has_the_recorded_id_is_left_alone(tmp_path: Path, start) -> None:
    child = start(SLEEP)
    file = tmp_path / "run" / "server.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "create_time": record["create_time"] - 60, "token": "of another"}))
    assert end_leftovers(tmp_path) == []
    assert child.alive
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}', "[]"])
def test_a_record_that_was_cut_off_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "server.json").write_text(text)
    assert Record.of(tmp_path, "server") is None
    assert end_leftovers(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child when its parent is killed")
@pytest.mark.parametrize("ignored", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["", "deaf parent"])
def test_a_child_ends_when_its_parent_is_killed_even_one_that_ignored_the_signal(tmp_path: Path, ignored: str) -> None:
    code = f"""
import signal, time
{ignored}
from pathlib import Path
from b3_pipeline_tests.test_processes import SLEEP, Child, program
print(Child(program(SLEEP), Path({str(tmp_path)!r})).pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        child = psutil.Process(pid)
        until(lambda: child.cmdline()[1:2] == ["-c"])  # off the leash script, in its own program
        parent.kill()
    until(lambda: gone(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares the processor out among sessions first")
def test_a_program_that_stands_back_does_so_as_a_process_and_as_a_session(tmp_path: Path) -> None:
    child = Child(replace(program(SLEEP), nice=7), tmp_path)
    process, session = psutil.Process(child.pid), Path(f"/proc/{child.pid}/autogroup")
    try:
        until(lambda: process.cmdline()[1:2] == ["-c"])  # off the leash script
        assert process.nice() == psutil.Process().nice() + 7
        assert not session.exists() or session.read_text().split()[1:] == ["nice", "7"]
    finally:
        processes.stop([child], timeout_s=0.5)


def test_standing_back_as_a_session_is_asked_again_while_the_system_takes_no_more_such_wishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, opened, write = tmp_path / "autogroup", os.open, os.write
    told.touch()
    refusals = iter([BlockingIOError, BlockingIOError])

    def reluctant(file: int, data: bytes) -> int:
        for refusal in refusals:
            raise refusal
        return write(file, data)

    monkeypatch.setattr(leash.os, "nice", lambda _by: None)
    monkeypatch.setattr(leash.os, "open", lambda _path, flags: opened(told, flags))
    monkeypatch.setattr(leash.os, "write", reluctant)
    monkeypatch.setattr(leash.time, "sleep", lambda _s: None)
    leash.step_back(7)
    monkeypatch.undo()
    assert told.read_text() == "7"
    assert not list(refusals)
