"""The process's log: one JSON object a line, and which requests are worth a line.

Most requests ask for what they asked for a second ago; those are counted (`/metrics`), not written. A line is for a request
that was refused or failed, took longer than `SLOW_S`, or may have changed something; of a flood `LINES_A_SECOND`, and the
next line says how many were left out. The supervisor moves the file aside when it is large (`processes.Child.tend_log`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import orjson

#: A request that takes longer is worth a line (seconds).
SLOW_S = 0.25
#: A line takes some 50 µs: so many harm nobody, whoever floods us.
LINES_A_SECOND = 100
_QUIET = {"GET", "HEAD", "OPTIONS"}

log = logging.getLogger("b3.api")


class JsonLines(logging.Formatter):
    """A log line is one JSON object; queries are not in it, for they may hold what was sent by mistake."""

    def format(self, record: logging.LogRecord) -> str:
        said = {"at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname}
        said |= {"message": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return orjson.dumps(said).decode()


def log_to_stderr() -> None:
    """Lets this process log to stderr: warnings, and of the API what is worth a line. Where a log is set up, it stays."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)


def worth_a_line(method: str, status: int, seconds: float) -> bool:
    """Whether a request that has been answered is written, and not only counted."""
    return status >= 400 or seconds >= SLOW_S or method not in _QUIET


class Lines:
    """Writes the lines of requests, so many a second. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second, self._written, self._left_out = 0, 0, 0

    def write(self, facts: dict[str, Any]) -> None:
        """Writes the line of a request, or counts it as left out."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= LINES_A_SECOND:
            self._left_out += 1
            return
        self._written += 1
        left_out = {"left_out": self._left_out} if self._left_out else {}
        self._left_out = 0
        log.info("request", extra={"facts": facts | left_out})
