from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from b3_pipeline.metrics import files, instruments
from b3_pipeline.settings import Settings
from b3_pipeline_tests.metrics.conftest import counted

COUNTER = """
import sys, time
from b3_pipeline.metrics import instruments
from b3_pipeline.settings import Settings
instruments.ready(Settings())
for _ in range(3):
    instruments.fetched("dxy", "new", 0.2)
instruments.checked("b3_dxy_ticks", "wal", "ERROR", sys.argv[1] == "passed")
print("counted", flush=True)
sys.stdin.readline()
"""

FORKING = """
import os
from b3_pipeline.metrics import instruments
from b3_pipeline.settings import Settings
instruments.ready(Settings())
instruments.fetched("dxy", "new", 0.2)
child = os.fork()
instruments.fetched("dxy", "new", 0.2)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@contextmanager
def another_process(home: Path, passed: str = "passed") -> Iterator[subprocess.Popen[str]]:
    """A process that has counted three fetches and a check, and lives until the block ends."""
    env = {**os.environ, "B3_HOME": str(home)}
    command = [sys.executable, "-c", COUNTER, passed]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "counted\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


FETCHES = ("b3_fetches_total", "new", "dxy")


def test_what_several_processes_count_is_added_up(counting: Settings) -> None:
    instruments.fetched("dxy", "new", 0.1)
    with another_process(counting.home), another_process(counting.home):
        found = counted(counting.home)
    assert found[FETCHES] == 7
    assert found["b3_fetch_seconds_count", "dxy"] == 7
    assert found["b3_fetch_seconds_bucket", "0.1", "dxy"] == 1
    assert found["b3_fetch_seconds_bucket", "+Inf", "dxy"] == 7


def test_counts_of_the_dead_stay_and_their_files_do_not(counting: Settings) -> None:
    folder = counting.home / files.FOLDER
    with another_process(counting.home):
        assert files.merge_dead(folder) == 0, "it lives"
    for round in range(3):
        with another_process(counting.home):
            pass
        assert files.merge_dead(folder) == (2 if round == 0 else 1)
        instruments.fetched("dxy", "new", 0.2)
        assert counted(counting.home)[FETCHES] == 3 * (round + 2) + round + 1
    assert len(list(folder.glob("*.db"))) == 2 * len(files.SIZES), "the kept ones, and ours"
    assert len(list(folder.glob("*.lock"))) == 2
    assert counted(counting.home)["b3_fetch_seconds_count", "dxy"] == 15


def test_of_a_gauge_the_newest_value_counts_whoever_is_dead(counting: Settings) -> None:
    folder = counting.home / files.FOLDER
    last = ("b3_check_passed", "wal", "b3_dxy_ticks")
    with another_process(counting.home, "passed"):
        assert counted(counting.home)[last] == 1
    with another_process(counting.home, "failed"):
        pass
    files.merge_dead(folder)
    assert last not in counted(counting.home)
    instruments.checked("b3_dxy_ticks", "wal", "ERROR", passed=True)
    assert counted(counting.home)[last] == 1


@pytest.mark.parametrize("killed_in", ["_write_sum", "write_private", "_clear"])
def test_a_merge_that_is_killed_anywhere_loses_and_doubles_nothing(
    counting: Settings, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    folder = counting.home / files.FOLDER
    for _ in range(2):
        with another_process(counting.home):
            pass
    calls = []

    def dies(*args: object, **kwargs: object) -> None:
        calls.append(args)
        if len(calls) == (2 if killed_in == "_clear" else 1):  # the first clearing is that of an earlier merge
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, killed_in, dies)
        with pytest.raises(KeyboardInterrupt):
            files.merge_dead(folder)
    assert counted(counting.home)[FETCHES] == 6
    files.merge_dead(folder)
    assert counted(counting.home)[FETCHES] == 6
    assert len(list(folder.glob("*.db"))) == 2 * len(files.SIZES)


def test_a_damaged_file_is_left_out_and_hides_no_other(counting: Settings, caplog: pytest.LogCaptureFixture) -> None:
    folder = counting.home / files.FOLDER
    instruments.fetched("dxy", "new", 0.1)
    (folder / "counter_1-dead.db").write_bytes(b"\xff\xff\xff\x7fnot one of ours")
    (folder / "counter_2-dead.db").write_bytes(b"")
    assert counted(counting.home)[FETCHES] == 1
    assert "counter_1-dead.db cannot be read" in caplog.text
    assert files.merge_dead(folder) == 2
    assert counted(counting.home)[FETCHES] == 1


def test_a_forked_process_counts_for_itself(counting: Settings) -> None:
    env = {**os.environ, "B3_HOME": str(counting.home)}
    subprocess.run([sys.executable, "-c", FORKING], env=env, check=True, timeout=60)
    assert counted(counting.home)[FETCHES] == 3
    assert files.merge_dead(counting.home / files.FOLDER) == 2
    assert counted(counting.home)[FETCHES] == 3


def test_many_dead_processes_are_merged_by_a_new_one(counting: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MANY", 2)
    for _ in range(3):
        instruments.fetched("dxy", "new", 0.1)
        instruments.stop()
        instruments.ready(counting)
    assert len(list((counting.home / files.FOLDER).glob("counter_*.db"))) <= 3
    assert counted(counting.home)[FETCHES] == 3
