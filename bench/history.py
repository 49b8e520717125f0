"""Five years of sessions through Dagster, one materialization a partition and table, against the same load without it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.running import run_job
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import survey
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sample import make_sample
from b3_pipeline.services import engines
from b3_pipeline.sessions import session_before, session_of
from b3_pipeline.settings import Settings
from b3_pipeline.tables import LEDGERS, MARKET_TABLES
from bench.registry import Figures, Options, benchmark
from bench.server import free_base, make_empty

SESSIONS = 1_250
#: The last session: the sample, and so the work, is the same in every run.
NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
TABLES = tuple(t.name for t in (*MARKET_TABLES, *LEDGERS))


@benchmark("history")
def history(options: Options) -> list[Figures]:
    """Seconds in all, and what Dagster adds for each partition of each table."""
    legacy, home = options.folder / "legacy", options.folder / "home"
    make_sample(legacy, NOW, SESSIONS)
    os.environ |= {
        "B3_HOME": str(home),
        "B3_PORT_BASE": str(free_base()),
        "B3_NOW": NOW.isoformat(),
        "B3_LEGACY_DIR": str(legacy),
        "DAGSTER_EVENT_BATCH_SIZE": "200",
    }
    partitions = SESSIONS * len(MARKET_TABLES)
    options.say(f"history: loading {SESSIONS:,} sessions into {len(MARKET_TABLES)} tables, without Dagster")
    with engines(Settings()) as servers, QuestDB(servers.questdb) as db:
        schema.apply(db, Settings().clock)
        alone = _alone(db, home, legacy)
        make_empty(db, *TABLES)
        options.say(f"history: {alone:.1f} s; now as a Dagster run over as many partitions")
        store = Store()
        store.db = db
        started = time.perf_counter()
        if failed := run_job("migrate", {}, store, servers, _range()):
            raise SystemExit("; ".join(failed))
        whole = time.perf_counter() - started
    return [
        Figures(
            "A history through Dagster",
            ("sessions × tables", "load alone, s", "through Dagster, s", "ms a partition and table on top"),
            [
                (
                    f"{SESSIONS:,} × {len(MARKET_TABLES)}",
                    f"{alone:.1f}",
                    f"{whole:.1f}",
                    f"{(whole - alone) / partitions * 1e3:.1f}",
                )
            ],
            "With every check of every table, one materialization a partition, events in batches of 200.",
        )
    ]


def _alone(db: QuestDB, home: Path, legacy: Path) -> float:
    started = time.perf_counter()
    payloads = [p for found in survey(legacy) if (p := found.loadable)]
    loader = Loader(db, home, Settings().clock)
    for table in MARKET_TABLES:
        load_all(loader, payloads, table)
    return time.perf_counter() - started


def _range() -> tuple[str, str]:
    """The first and the last session of the sample."""
    last = session_of(NOW.date())
    first = last = session_before(last)
    for _ in range(SESSIONS - 1):
        first = session_before(first)
    return first.isoformat(), last.isoformat()
