"""Keeping servers up: one that crashes is started again, after pauses that grow, and never given up.

One thread does it all by looking at each server in turn: nothing waits for one server while another is down, and a
signal gets through at any moment.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Never

from b3_pipeline import processes
from b3_pipeline.errors import B3Error
from b3_pipeline.processes import Child

LOG_NAME = "restarts.log"
LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class BackOff:
    """How long to wait before a server that crashed is started again, in seconds.

    A server that was healthy for `forgiven_s` since its last crash begins anew. After `alarm_after` crashes in a row
    the pause is the longest one, and people are told to look for themselves.
    """

    first_s: float = 1
    longest_s: float = 60
    forgiven_s: float = 300
    alarm_after: int = 6

    def pause(self, crashes: int) -> float:
        """The pause after this many crashes in a row (at least one): 1, 2, 4 … 60 s."""
        if crashes >= self.alarm_after:
            return self.longest_s
        return min(self.first_s * 2 ** (crashes - 1), self.longest_s)


class Server:
    """A server that is kept up: how it starts, and how one sees that it is healthy."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Child],
        healthy: Callable[[Child], bool],
        timeout_s: float,
        pause_s: float = 0.05,
    ) -> None:
        self.name, self.timeout_s = name, timeout_s
        self._start, self._healthy, self._pause_s = start, healthy, pause_s
        self.child: Child | None = None

    def start(self) -> None:
        """Starts it and returns at once. Raises B3Error or OSError when that cannot be."""
        self.child = self._start()

    def wait(self) -> None:
        """Returns when the started server is healthy. Raises ServerDied when it ends or takes too long."""
        assert self.child is not None, "start() comes first"
        self.child.wait_until(self.healthy, self.timeout_s, self._pause_s)

    def healthy(self) -> bool:
        """Whether it answers now. Raises B3Error where it says why it never will."""
        return self.child is not None and self._healthy(self.child)


def stop(servers: Iterable[Server]) -> None:
    """Stops those that run, together."""
    processes.stop([server.child for server in servers if server.child])


class _Kept:
    """A server with what is known of its crashes; moments are of the supervisor's clock."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.crashes = 0  # in a row
        self.restarts = 0
        self.due: float | None = None  # when it is started again
        self.deadline: float | None = None  # until when it must be healthy again
        self.healthy_since = 0.0


class Supervisor:
    """Starts servers again that crashed. `tell` takes sentences for people, `counted` the restarts by server."""

    def __init__(
        self,
        servers: Iterable[Server],
        logs: Path,
        tell: Callable[[str], None] = lambda _message: None,
        counted: Callable[[dict[str, int]], None] = lambda _restarts: None,
        back_off: BackOff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = logs / LOG_NAME
        self._kept = [_Kept(server) for server in servers]
        self._tell, self._counted, self._clock = tell, counted, clock
        self._back_off = back_off or BackOff()

    @property
    def restarts(self) -> dict[str, int]:
        """How often each server was started again."""
        return {kept.server.name: kept.restarts for kept in self._kept}

    def watch(self) -> Never:
        """Keeps the servers up until an exception, such as Ctrl-C's, ends it."""
        while True:
            self.look()
            time.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Looks at each server once, and does what is due."""
        for kept in self._kept:
            child = kept.server.child
            if kept.due is not None:
                if self._clock() >= kept.due:
                    self._start(kept)
            elif child is None or not child.alive:
                self._crashed(kept, str(child.died()) if child else f"{kept.server.name} is not there.")
            elif kept.deadline is not None:
                self._await(kept, child, kept.deadline)
            elif kept.crashes and self._clock() - kept.healthy_since >= self._back_off.forgiven_s:
                kept.crashes = 0
            if child is not None:
                with suppress(OSError):  # on a full disk there is nowhere to copy a log to
                    child.tend_log()

    def _start(self, kept: _Kept) -> None:
        kept.due = None
        try:
            kept.server.start()
        except (B3Error, OSError) as error:
            self._crashed(kept, f"{kept.server.name} could not be started: {error}")
            return
        kept.restarts += 1
        kept.deadline = self._clock() + kept.server.timeout_s
        with suppress(OSError):
            self._counted(self.restarts)

    def _await(self, kept: _Kept, child: Child, deadline: float) -> None:
        try:
            healthy, why = kept.server.healthy(), ""
        except B3Error as error:
            healthy, why = False, f" {error}"
        if healthy:
            kept.deadline, kept.healthy_since = None, self._clock()
            self._say(f"{kept.server.name} is up again.")
        elif self._clock() > deadline:
            self._crashed(kept, f"{child.unhealthy(kept.server.timeout_s)}{why}")

    def _crashed(self, kept: _Kept, what: str) -> None:
        """Ends what is left of it, and sets the time of its next start."""
        if kept.server.child:
            with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel; the other servers are kept up meanwhile
                processes.stop([kept.server.child])
            kept.server.child = None
        kept.crashes, kept.deadline = kept.crashes + 1, None
        pause = self._back_off.pause(kept.crashes)
        kept.due = self._clock() + pause
        advice = ""
        if kept.crashes >= self._back_off.alarm_after:
            advice = (
                f"\nThat was {kept.crashes} times in a row, so something must be put right: `b3 doctor` looks at disk, "
                "ports and limits, and the log says what the server makes of it. All else stays up meanwhile."
            )
        self._say(f"{what}\n{kept.server.name} is started again in {pause:.0f} s.{advice}")

    def _say(self, message: str) -> None:
        with suppress(OSError):  # a full disk is when servers crash: they must be started again all the same
            processes.rotate(self.log)
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {message}\n")
        with suppress(OSError):
            self._tell(message)
