"""Where the time goes: named stages, timed by wrapping the functions that do their work."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

from b3_pipeline.loading import payloads, writer
from b3_pipeline.loading.buckets import TimeBuckets
from b3_pipeline.loading.compare import Standing
from b3_pipeline.loading.writer import Writer
from b3_pipeline.parsing import legacy_csv
from b3_pipeline.parsing.csv_rows import Rows
from b3_pipeline.questdb.client import QuestDB

#: Stage → the functions in which it happens (where it is looked up, and its name there).
STAGES: dict[str, list[tuple[Any, str]]] = {
    "read": [(payloads._Verified, "readinto")],
    "parse": [(Rows, "block"), (legacy_csv, "_explode")],
    "set aside": [(TimeBuckets, "_spill"), (TimeBuckets, "_pieces")],
    "distinct": [(Standing, "add")],
    "compare": [(writer, "judge"), (writer, "_in_time"), (QuestDB, "arrow")],
    "write": [(QuestDB, "send")],
    "apply": [(QuestDB, "wait_applied")],
    "count": [(Writer, "prove")],
}


class Stopwatch:
    """Seconds by stage, summed over threads; what a stage calls of another counts for the other one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._local = threading.local()

    def watch(self) -> None:
        """Wraps the functions of all stages, for the rest of this process."""
        for stage, functions in STAGES.items():
            for owner, name in functions:
                setattr(owner, name, self._timed(stage, getattr(owner, name)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self._local, "inner", 0.0)
            self._local.inner = 0.0
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - started
                with self._lock:
                    self.seconds[stage] += elapsed - self._local.inner
                self._local.inner = outer + elapsed

        return timed
