"""Loading a LowDB file of many ideas: records a second until all is committed, and the memory that it takes."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import psycopg

from b3_pipeline import processes
from b3_pipeline.loading.payloads import payload
from b3_pipeline.lowdb.loading import Loading
from b3_pipeline.lowdb.model import CATEGORIES, PRIORITIES, STATUSES
from b3_pipeline.lowdb.reading import KINDS
from b3_pipeline.lowdb.schema import upgrade
from b3_pipeline.postgres.server import PostgresServer
from b3_pipeline.settings import PROJECT
from bench.registry import Figures, Options, benchmark

#: How many ideas a file has.
SIZES = (100_000, 1_000_000)
#: The recorded ideas have words of such a kind.
_TEXT = (
    "exportação coleta painel índice gamma dashboard latência superfície risco posição delta sinal opções backup dólar "
    "alerta partição volatilidade replay migração tendência histórico snapshot curva"
)
_WORDS = _TEXT.split()
_BEGIN = datetime(2025, 6, 1, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Measured:
    """One load in a process of its own: seconds, ideas and rows that were written, peak memory (MB) of its process."""

    seconds: float
    loaded: int
    rows: int
    peak_mb: int


@benchmark("lowdb")
def lowdb(options: Options) -> list[Figures]:
    """Seconds of a first load, of the file with a hundredth of it changed, and of the same file again."""
    figures = Figures(
        "LowDB to PostgreSQL",
        ("ideas", "file", "load, s", "ideas/s", "rows/s", "changed 1 %, s", "again, s", "peak memory"),
        note="Medians. Load: until a file is committed, its hash and the account of each record included, on an embedded\n"
        "PostgreSQL as it comes. Rows: of the ideas, their tags and their history, all written in that transaction, with the\n"
        "index of their words. Changed: one idea in a hundred is other. Again: nothing has changed. Memory: of the process.",
    )
    server = PostgresServer(options.folder / "home")
    child = server.start()
    try:
        server.wait()
        figures.rows.extend(_measured(server.dsn, size, options) for size in SIZES)
    finally:
        processes.stop([child])
    return [figures]


def _measured(dsn: str, size: int, options: Options) -> tuple[str, ...]:
    path = options.folder / "ideas.json"
    rounds: list[tuple[Measured, Measured, Measured]] = []
    for _ in range(options.repeat):
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute("drop schema if exists ideas cascade")
            db.execute("checkpoint")
        upgrade(dsn)
        write(path, size)
        first = _loaded(dsn, path)
        write(path, size, changed=100)
        rounds.append((first, _loaded(dsn, path), _loaded(dsn, path)))
        options.say(f"{size:,} ideas: {', '.join(f'{each.seconds:.1f} s' for each in rounds[-1])}")
    first, changed, again = (median(each[i].seconds for each in rounds) for i in range(3))
    loaded, rows, peak = rounds[0][0].loaded, rounds[0][0].rows, max(each.peak_mb for r in rounds for each in r)
    speeds = (f"{loaded / first:,.0f}", f"{rows / first:,.0f}")
    times = (f"{changed:.1f}", f"{again:.1f}", f"{peak} MB")
    return (f"{size:,}", f"{path.stat().st_size / 2**20:.0f} MB", f"{first:.1f}", *speeds, *times)


def write(path: Path, size: int, changed: int = 0) -> None:
    """A file of so many ideas as the recorded ones are; the same each time, and each `changed`th with another title."""
    chance = random.Random(20250921)
    with path.open("w", encoding="utf-8") as out:
        out.write('{"ideas": [')
        for number in range(1, size + 1):
            other = " (revista)" if changed and number % changed == 0 else ""
            text = json.dumps(_idea(number, chance, other), ensure_ascii=False, indent=2)
            out.write(f"{',' if number > 1 else ''}\n{text}")
        out.write("]}")


def _idea(number: int, chance: random.Random, other: str) -> dict[str, object]:
    created = _BEGIN + timedelta(minutes=chance.randrange(500_000))
    updated = created + timedelta(minutes=chance.randrange(5_000)) if chance.random() < 0.7 else None
    return {
        "id": str(number),
        "title": " ".join(chance.choices(_WORDS, k=3)).capitalize() + other,
        "description": " ".join(chance.choices(_WORDS, k=chance.randrange(15, 40))),
        "category": chance.choice(CATEGORIES),
        "priority": chance.choice(PRIORITIES),
        "status": chance.choice(STATUSES),
        "tags": chance.sample(_WORDS, chance.randrange(1, 5)),
        "createdAt": _written(created),
        "updatedAt": updated and _written(updated),
    }


def _written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"


def _loaded(dsn: str, path: Path) -> Measured:
    command = [sys.executable, "-m", "bench.lowdb"]
    given = json.dumps({"dsn": dsn, "path": str(path)})
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, cwd=PROJECT)
    return Measured(**json.loads(done.stdout))


def _run(dsn: str, path: Path) -> Measured:
    [kind] = [kind for kind in KINDS if kind.file == path.name]
    with psycopg.connect(dsn) as db:
        before = _rows(db)
    started = time.perf_counter()
    done = Loading(dsn, path.parent / "home", lambda: datetime.now(UTC), "benchmark").load(payload(path, kind))
    seconds = time.perf_counter() - started
    with psycopg.connect(dsn) as db:
        rows = _rows(db) - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Measured(seconds, sum(each.loaded for each in done.tables), rows, peak)


def _rows(db: psycopg.Connection) -> int:
    query = (
        "select (select count(*) from ideas.ideas) + (select count(*) from ideas.idea_tags) "
        "+ (select count(*) from ideas.idea_history)"
    )
    return db.execute(query).fetchall()[0][0]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(asdict(_run(asked["dsn"], Path(asked["path"]))), sys.stdout)
