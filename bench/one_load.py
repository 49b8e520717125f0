"""One load in a process of its own, so that its peak of memory is its own: a job as JSON in, a measurement out."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import payload
from b3_pipeline.parsing.kinds import Kind, Parsing
from b3_pipeline.parsing.legacy_csv import CsvSpec, parse_csv
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.tables import TABLES
from bench.files import SHAPES
from bench.stages import Stopwatch


@dataclass(frozen=True)
class Job:
    """Which file of which shape to load, in which home, over which server (an `Address` as a dictionary)."""

    shape: str
    path: str
    home: str
    address: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Seconds of the whole load, processor seconds of its process, its counts, peak memory (MB), seconds by stage."""

    seconds: float
    cpu: float
    candidates: int
    loaded: int
    peak_mb: int
    stages: dict[str, float]


def run(job: Job) -> Measured:
    """Loads the file as `b3 migrate` loads a payload: until its rows show and are counted."""
    spec = SHAPES[job.shape].spec
    table = TABLES[spec.table.name]
    stopwatch = Stopwatch()
    with QuestDB(Address(**job.address), apply_timeout_s=600) as db:
        _warm(spec, db)
        stopwatch.watch()
        started, used = time.perf_counter(), time.process_time()
        content = payload(Path(job.path), kind(spec))
        report = Loader(db, Path(job.home), lambda: datetime.now(UTC), "benchmark").load(content, table)
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    assert report.outcome == "loaded", report.reason
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Measured(seconds, cpu, report.counted.candidates, report.counted.loaded, peak, dict(stopwatch.seconds))


def _warm(spec: CsvSpec, db: QuestDB) -> None:
    """Imports and connects as a running process has: what it takes to start one is no part of a load."""
    db.scalar("select 1")
    for module in ("questdb", "pandas", "pyarrow.csv", "pyarrow.parquet"):
        import_module(module)
    head = ",".join(spec.required) + "\n"
    row = ",".join("01-10-2025" if name == "data" else "08:50:00" if name == "hora" else "1" for name in spec.required)
    assert len(list(parse_csv(spec, BytesIO(f"{head}{row}\n".encode())))) == 1


def kind(spec: CsvSpec) -> Kind:
    """The kind of payload that a wide file of a specification is."""

    def parse(stream: Any, _table: object) -> Parsing:
        parsed = parse_csv(spec, stream)
        return Parsing(iter(parsed), parsed.ignored_columns)

    return Kind(spec.file, spec.file, "a benchmark's file", "legacy_csv", (spec.table.name,), parse)


if __name__ == "__main__":
    json.dump(asdict(run(Job(**json.load(sys.stdin)))), sys.stdout)
