"""Our load of a wide file against QuestDB's own `/imp` of the same records, already made long and clean."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx2
import psutil

from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.settings import PROJECT
from b3_pipeline.tables import Table
from bench.files import SHAPES, Pair, Shape, write_pair
from bench.one_load import Job, Measured
from bench.registry import Figures, Options, benchmark
from bench.server import cpu_seconds, make_empty, questdb
from bench.stages import STAGES

RIVAL = "rival"
#: From so many records on, one repetition is enough: chance has less of a say, and it takes minutes.
ONCE_FROM = 20_000_000
#: Records of the loads that are not measured.
WARM = 300_000


@benchmark("load")
def load(options: Options) -> list[Figures]:
    """Rates, ratio, memory and shares by stage, for each shape and size."""
    rates = Figures(
        "Rates",
        (
            "file",
            "records",
            "ours, s",
            "`/imp`, s",
            "ours, records/s",
            "`/imp`, records/s",
            "ours ÷ `/imp`",
            "ours, CPU s",
            "`/imp`, CPU s",
            "peak memory",
        ),
        note="Medians. Ratio: of the two rates of each repetition, measured one after the other; then the median.\n"
        "CPU: of our process and the server together. Memory: of our process.",
    )
    shares = Figures(
        "Share of time by stage",
        ("file", "records", *STAGES),
        note="Stages overlap: parsing and writing run in two threads each. Shares are of the sum over all threads.",
    )
    with questdb(options.folder / "home") as (db, server):
        _warm(db, options)
        for name, shape in SHAPES.items():
            for size in options.sizes:
                rounds = list(_measure(db, server, name, shape, size, options))
                rates.rows.append(_rates(name, rounds))
                shares.rows.append(_shares(name, [each.ours for each in rounds]))
    return [rates, shares]


def _warm(db: QuestDB, options: Options) -> None:
    """Lets the server compile what both sides use, before anything is measured."""
    for name, shape in SHAPES.items():
        pair = write_pair(shape, WARM, options.folder / "warm")
        for _ in range(2):
            make_empty(db, shape.spec.table.name, "b3_loads")
            _our_load(db, name, pair, options.folder / "home")
            _imp(db, shape.spec.table, pair)


@dataclass(frozen=True)
class Round:
    """Both sides, one after the other: our load and seconds of `/imp`; processor seconds of all that took part."""

    ours: Measured
    theirs: float
    our_cpu: float
    their_cpu: float


def _measure(
    db: QuestDB, server: psutil.Process, name: str, shape: Shape, size: int, options: Options
) -> Iterator[Round]:
    """Both sides in turn, on files that are gone afterwards."""
    folder = options.folder / f"{name}-{size}"
    options.say(f"{name}: writing files of {size:,} records")
    pair = write_pair(shape, size, folder)
    for _ in range(1 if size >= ONCE_FROM else options.repeat):
        make_empty(db, shape.spec.table.name, "b3_loads", "b3_revisions")
        before = cpu_seconds(server)
        ours = _our_load(db, name, pair, options.folder / "home")
        between = cpu_seconds(server)
        theirs = _imp(db, shape.spec.table, pair)
        their_cpu = cpu_seconds(server) - between
        _require_same(db, shape.spec.table)
        options.say(f"{name}: {size:,} records in {ours.seconds:.1f} s, /imp in {theirs:.1f} s")
        yield Round(ours, theirs, ours.cpu + between - before, their_cpu)
    shutil.rmtree(folder)


def _our_load(db: QuestDB, name: str, pair: Pair, home: Path) -> Measured:
    job = Job(name, str(pair.wide), str(home), asdict(db.address))
    done = subprocess.run(
        [sys.executable, "-m", "bench.one_load"],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    if done.returncode:
        raise SystemExit(f"The load failed:\n{done.stderr}")
    return Measured(**json.loads(done.stdout))


def _imp(db: QuestDB, table: Table, pair: Pair) -> float:
    """Seconds until the rows of the long file show, in a new table of the same DDL (WAL, DEDUP)."""
    made = (s for m in schema.migrations() for s in m.statements if f"CREATE TABLE IF NOT EXISTS {table.name} " in s)
    db.execute(f"DROP TABLE IF EXISTS {RIVAL}")
    db.execute(next(made).replace(table.name, RIVAL, 1))
    options = {
        "name": RIVAL,
        "timestamp": "ts",
        "partitionBy": table.partition_by,
        "fmt": "json",
        "forceHeader": "true",
    }
    auth = (db.address.user, db.address.password)
    started = time.perf_counter()
    with pair.long.open("rb") as data:
        answer = httpx2.post(
            f"{db.address.http_url}/imp", params=options, files={"data": data}, auth=auth, timeout=3600, trust_env=False
        ).json()
    db.wait_applied(RIVAL)
    seconds = time.perf_counter() - started
    if answer.get("rowsImported") != pair.clean:
        raise SystemExit(f"/imp did not take all records: {answer}")
    return seconds


def _require_same(db: QuestDB, table: Table) -> None:
    """Both tables hold the same records, so both sides did the same work. By month: no sum is too long to compare."""
    value = next(c.name for c in table.columns if c.hard is not None)
    query = "select timestamp_floor('M', ts), count(), sum({value} * 100)::long from {table} group by 1 order by 1"
    ours, theirs = (Counter(db.query(named(query, value=value, table=t))) for t in (table.name, RIVAL))
    if ours != theirs:
        raise SystemExit(f"{table.name} and the table of /imp differ: {sum((ours - theirs).values())} months.")


def _rates(name: str, rounds: list[Round]) -> tuple[str, ...]:
    ours, theirs = median(r.ours.seconds for r in rounds), median(r.theirs for r in rounds)
    records = rounds[0].ours.loaded
    return (
        name,
        f"{records:,}",
        f"{ours:.2f}",
        f"{theirs:.2f}",
        f"{records / ours:,.0f}",
        f"{records / theirs:,.0f}",
        f"{median(r.theirs / r.ours.seconds for r in rounds):.2f}",
        f"{median(r.our_cpu for r in rounds):.1f}",
        f"{median(r.their_cpu for r in rounds):.1f}",
        f"{median(r.ours.peak_mb for r in rounds):.0f} MB",
    )


def _shares(name: str, ours: list[Measured]) -> tuple[str, ...]:
    return (name, f"{ours[0].loaded:,}", *(f"{100 * s:.0f} %" for s in _parts(ours)))


def _parts(ours: list[Measured]) -> Iterable[float]:
    sums = [sum(m.stages.get(stage, 0) for m in ours) for stage in STAGES]
    return (each / sum(sums) for each in sums)
