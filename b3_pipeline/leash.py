"""The first thing that runs in each of our child processes: ties its life to its parent's, then becomes the program.

A script of its own, started as `python -I -S leash.py PARENT SIGNAL UID GID NICE PROGRAM ARGS…`, because a death signal must
be set in the child, after the user is changed and before the program runs; doing so between fork and exec of a process
with threads may deadlock. It imports nothing of the project. UID -1 keeps the user.
"""

import ctypes
import os
import signal as signals
import sys
import time
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def main(parent: int, signal: int, uid: int, gid: int, nice: int, argv: list[str]) -> None:
    """Never returns: runs `argv`, or exits when the parent died in the meantime."""
    # What our own parent ignores (a shell's background jobs ignore SIGINT, and Dagster then SIGTERM) would stay ignored.
    for number in (signals.SIGINT, signals.SIGTERM, signals.SIGHUP, signals.SIGQUIT, signals.SIGPIPE):
        signals.signal(number, signals.SIG_DFL)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal)
    if nice:
        step_back(nice)
    if os.getppid() != parent:
        sys.exit("the parent died before its child started")
    os.execv(argv[0], argv)


def step_back(nice: int) -> None:
    """Lets others have the processor first, as far as the system takes it.

    Linux shares the processor out among sessions before it looks at what is nice within one, and this is one of its own.
    """
    with suppress(OSError):
        os.nice(nice)
        session = os.open("/proc/self/autogroup", os.O_WRONLY)
        for _ in range(50):
            try:
                os.write(session, str(nice).encode())
                break
            except BlockingIOError:  # of all of us together the system takes one such wish in a tenth of a second
                time.sleep(0.1)
        os.close(session)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:6]), argv=sys.argv[6:])
