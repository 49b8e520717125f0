"""All checks of one table in a process of its own, so that its peak of memory is its own: a job as JSON in, figures out."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline.loading.payloads import Found, payload
from b3_pipeline.quality import sources
from b3_pipeline.quality.checks import PARITY, checks_of
from b3_pipeline.quality.finding import Context
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.tables import TABLES
from bench.files import SHAPES
from bench.one_load import Job, kind


@dataclass(frozen=True)
class Proven:
    """Seconds of all checks of a table, and of parity alone; processor seconds, keys on both sides, peak memory (MB)."""

    seconds: float
    parity: float
    cpu: float
    source_keys: int
    table_keys: int
    peak_mb: int


def run(job: Job) -> Proven:
    """Runs the checks that `b3 validate` runs on the table of a file; parity has to hold."""
    spec = SHAPES[job.shape].spec
    file_kind = kind(spec)
    sources.MARKET_KINDS = (file_kind,)  # the only source that the table has here
    with QuestDB(Address(**job.address), apply_timeout_s=600) as db:
        db.scalar("select 1")
        seconds, used = {}, time.process_time()
        content = payload(Path(job.path), file_kind)
        context = Context(db, Path(job.home), datetime.now(UTC), [Found(content.name, file_kind, content)])
        numbers = {}
        for check in checks_of(TABLES[spec.table.name]):
            started = time.perf_counter()
            finding = check.finding(context, ALWAYS)
            seconds[check.name] = time.perf_counter() - started
            if check.severity == "ERROR":
                assert finding.passed, f"{check.name}: {finding.numbers} {finding.advice}"
            if check.name.startswith(PARITY):
                numbers = finding.numbers
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    parity = sum(taken for name, taken in seconds.items() if name.startswith(PARITY))
    mine, theirs = (int(numbers[side]) for side in ("source_keys", "table_keys"))
    return Proven(sum(seconds.values()), parity, time.process_time() - used, mine, theirs, peak)


if __name__ == "__main__":
    json.dump(asdict(run(Job(**json.load(sys.stdin)))), sys.stdout)
