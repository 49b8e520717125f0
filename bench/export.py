"""Exporting a table: files by day with checksums and manifests, beside QuestDB's own `/exp` Parquet of the same rows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import httpx2
import psutil

from b3_pipeline.places import place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import PROJECT
from b3_pipeline.tables import Table
from b3_pipeline.warehouse.exporting import Exporting, Item
from bench.files import SHAPES, write_pair
from bench.one_load import Job
from bench.registry import Figures, Options, benchmark
from bench.server import make_empty, questdb

_BLOCK = 1 << 20


@benchmark("export")
def export(options: Options) -> list[Figures]:
    """Seconds of a first export, of the same again, of verifying all of it, and of `/exp`."""
    figures = Figures(
        "Export",
        ("table", "rows", "export, s", "rows/s", "again, s", "verify, s", "/exp, s", "export ÷ /exp", "size", "/exp's"),
        note="Medians. Export: a file a day, checksums and manifests, on the disk. Again: nothing has changed, which is asked\n"
        "of the content. Verify: all files read back and compared with the table. /exp: one Parquet file of the same rows,\n"
        "downloaded and not looked at. export ÷ /exp: rows a second against rows a second.",
    )
    with questdb(options.folder / "home") as (db, _server):
        for name in SHAPES:
            for size in options.sizes:
                figures.rows.append(_measured(db, name, size, options))
    return [figures]


def _measured(db: QuestDB, name: str, size: int, options: Options) -> tuple[str, ...]:
    table = SHAPES[name].spec.table
    _load(db, name, size, options)
    rounds, rows, bytes_, rival_bytes = [], 0, 0, 0
    for _ in range(options.repeat):
        shutil.rmtree(options.folder / "exports", ignore_errors=True)
        first, items = _timed(db, table, options.folder)
        again, same = _timed(db, table, options.folder)
        sound, found = _timed(db, table, options.folder, verify=True)
        assert {item.action for item in items} == {"exported"}
        assert {item.action for item in same} == {"unchanged"}
        assert {item.action for item in found} == {"verified"}
        rows, bytes_ = sum(item.rows for item in items), sum(item.bytes for item in items)
        rival, rival_bytes = _by_server(db, table, items[-1].name, options.folder)
        rounds.append((first, again, sound, rival))
        memory = psutil.Process().memory_info().rss // 2**20
        options.say(f"{name}: {rows:,} rows in {first:.1f} s, /exp in {rival:.1f} s, {memory} MB")
    seconds = [median(round_[i] for round_ in rounds) for i in range(4)]
    sizes = (f"{bytes_ / 2**20:.0f} MB", f"{rival_bytes / 2**20:.0f} MB")
    first, again, sound, rival = (f"{s:.1f}" for s in seconds)
    ratio = f"{seconds[3] / seconds[0]:.2f} ×"
    return (table.name, f"{rows:,}", first, f"{rows / seconds[0]:,.0f}", again, sound, rival, ratio, *sizes)


def _load(db: QuestDB, name: str, size: int, options: Options) -> None:
    shape = SHAPES[name]
    make_empty(db, shape.spec.table.name, "b3_loads", "b3_revisions")
    options.say(f"{name}: writing and loading {size:,} records")
    pair = write_pair(shape, size, options.folder / f"{name}-{size}")
    job = Job(name, str(pair.wide), str(options.folder / "home"), asdict(db.address))
    command = [sys.executable, "-m", "bench.one_load"]
    subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=True, cwd=PROJECT)
    shutil.rmtree(Path(job.path).parent)


def _timed(db: QuestDB, table: Table, folder: Path, *, verify: bool = False) -> tuple[float, list[Item]]:
    exporting = Exporting(db, folder / "home", place(folder / "exports"), lambda: datetime.now(UTC))
    started = time.monotonic()
    items = list(exporting.verified([table]) if verify else exporting.run([table]))
    return time.monotonic() - started, items


def _by_server(db: QuestDB, table: Table, last: str, folder: Path) -> tuple[float, int]:
    """Seconds and bytes of the server's own Parquet of the same partitions."""
    query = f"select * from {table.name} where {table.timestamp} < dateadd('M', 1, '{last}-01T00:00:00Z')"  # noqa: S608
    parameters = {"query": query, "fmt": "parquet"}
    auth, path, started = (db.address.user, db.address.password), folder / "exp.parquet", time.monotonic()
    with (
        httpx2.Client(auth=auth, timeout=600, trust_env=False) as client,
        client.stream("GET", f"{db.address.http_url}/exp", params=parameters) as answer,
        path.open("wb") as out,
    ):
        answer.raise_for_status()
        for block in answer.iter_bytes(_BLOCK):
            out.write(block)
    return time.monotonic() - started, path.stat().st_size
