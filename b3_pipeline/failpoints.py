"""Named steps of what must survive a crash at any of them: a test ends the process there, as `kill -9` would."""

from __future__ import annotations

import os
import signal

#: The step at which this process is to end; only tests set it.
VARIABLE = "B3_DIE_AT"


def reached(step: str) -> None:
    """Names a step that is reached now. A name is `<what>: <what was just done>`, as in `retention: partition dropped`."""
    if os.environ.get(VARIABLE) == step:
        os.kill(os.getpid(), signal.SIGKILL)
