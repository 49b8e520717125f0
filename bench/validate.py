"""All checks of a table against its source: how long `b3 validate` takes for so many records, and how much memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import PROJECT
from bench.files import SHAPES, write_pair
from bench.load import ONCE_FROM, WARM
from bench.one_load import Job
from bench.one_validate import Proven
from bench.registry import Figures, Options, benchmark
from bench.server import cpu_seconds, make_empty, questdb

#: What the goal is stated in: so many records of a table in half a minute.
GOAL = 10_000_000


@benchmark("validate")
def validate(options: Options) -> list[Figures]:
    """Seconds, rate and memory for each shape and size."""
    figures = Figures(
        "Validation",
        (
            "table",
            "records",
            "all checks, s",
            "of it parity, s",
            "records/s",
            f"{GOAL // 1_000_000} M, s",
            "our CPU, s",
            "server's CPU, s",
            "peak memory",
        ),
        note="Medians. Every check of the table; its source is read and parsed again, each record compared with its row.\n"
        "10 M: what so many records take at that rate. Memory: of our process.",
    )
    with questdb(options.folder / "home") as (db, server):
        for name in SHAPES:
            warm = replace(options, repeat=2, say=lambda _said: None)
            list(_measure(db, server, name, WARM, warm))  # the server compiles what it is asked first
            for size in options.sizes:
                rounds = list(_measure(db, server, name, size, options))
                figures.rows.append(_row(name, rounds))
    return [figures]


def _measure(
    db: QuestDB, server: psutil.Process, name: str, size: int, options: Options
) -> Iterator[tuple[Proven, float]]:
    """The checks of a table that holds a file, and what the server used of processors meanwhile."""
    shape = SHAPES[name]
    make_empty(db, shape.spec.table.name, "b3_loads", "b3_revisions")
    options.say(f"{name}: writing and loading {size:,} records")
    pair = write_pair(shape, size, options.folder / f"{name}-{size}")
    job = Job(name, str(pair.wide), str(options.folder / "home"), asdict(db.address))
    loaded = _process("bench.one_load", job)["loaded"]
    for _ in range(1 if size >= ONCE_FROM else options.repeat):
        before = cpu_seconds(server)
        proven = Proven(**_process("bench.one_validate", job))
        assert proven.source_keys == proven.table_keys == loaded, proven
        options.say(f"{name}: {loaded:,} records in {proven.seconds:.1f} s")
        yield proven, cpu_seconds(server) - before
    shutil.rmtree(Path(job.path).parent)


def _process(module: str, job: Job) -> Any:
    command = [sys.executable, "-m", module]
    done = subprocess.run(
        command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=False, cwd=PROJECT
    )
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def _row(name: str, rounds: list[tuple[Proven, float]]) -> tuple[str, ...]:
    seconds, records = median(r.seconds for r, _ in rounds), rounds[0][0].table_keys
    return (
        SHAPES[name].spec.table.name,
        f"{records:,}",
        f"{seconds:.1f}",
        f"{median(r.parity for r, _ in rounds):.1f}",
        f"{records / seconds:,.0f}",
        f"{seconds * GOAL / records:.1f}",
        f"{median(r.cpu for r, _ in rounds):.1f}",
        f"{median(cpu for _, cpu in rounds):.1f}",
        f"{median(r.peak_mb for r, _ in rounds):.0f} MB",
    )
