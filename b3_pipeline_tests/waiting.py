"""Waiting for what other processes do, and looking at them while they may end at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns once the condition is true; fails when it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended, collected by its parent or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes_of(home: Path) -> list[psutil.Process]:
    """Living processes that were started in the home: by their environment, command line or folder."""
    found = []
    for process in psutil.process_iter():
        try:
            traces = [*process.environ().values(), *process.cmdline(), process.cwd()]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(home) in trace for trace in traces):
                found.append(process)
        except psutil.Error:
            continue
    return found
