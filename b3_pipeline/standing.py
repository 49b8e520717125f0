"""How the home stands: what each table has and when more is due, what of the archive is not loaded, the phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from b3_pipeline.loading.archived import archive_of, loaded_upto
from b3_pipeline.metrics.exposition import Probes
from b3_pipeline.postgres.flags import Flags
from b3_pipeline.quality.freshness import Freshness, freshness
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.services import Engines, running
from b3_pipeline.settings import Settings
from b3_pipeline.sources.catalog import collected
from b3_pipeline.sources.state import State
from b3_pipeline.tables import MARKET_TABLES


def freshness_of_tables(settings: Settings, db: QuestDB) -> dict[str, Freshness]:
    """How fresh each market table is that is there."""
    there = {name for (name,) in db.query("select table_name from tables()")}
    live = tuple(collected(settings).values())
    return {t.name: freshness(db, t, live, settings.clock()) for t in MARKET_TABLES if t.name in there}


def tables(settings: Settings, address: Address) -> dict[str, dict[str, Any]]:
    """The rows of each market table, its newest moment (UTC) and that one's age, when more is due, whether it is fresh."""
    with QuestDB(address) as db:
        found = freshness_of_tables(settings, db)
    return {
        name: {
            "rows": f.rows,
            "newest": f.newest,
            "age_s": None if f.age_s is None else round(f.age_s, 1),
            "due": f.due,
            "fresh": f.fresh,
        }
        for name, f in found.items()
    }


def archived(settings: Settings) -> dict[str, dict[str, Any]]:
    """Of each source in the raw archive its newest entry's moment (UTC), how many are not loaded, what is wrong with it."""
    archive = archive_of(settings.home)
    found = {}
    for source in archive.sources():
        newest = archive.newest(source)
        if newest is not None:
            waiting = list(archive.after(source, loaded_upto(archive, source)))
            found[source] = {
                "newest": newest.at,
                "behind": len(waiting),
                "behind_bytes": sum(entry.size for entry in waiting),
                "problem": State.read(archive.place(source)).problem,
            }
    return found


def probes(settings: Settings) -> Probes:
    """What the monitor asks at scrape time."""

    def of_tables() -> Mapping[str, Mapping[str, Any]]:
        servers = running(settings)
        return tables(settings, servers.questdb) if servers else {}

    return Probes(tables=of_tables, archive=lambda: archived(settings))


def phase(settings: Settings, servers: Engines | None) -> str:
    """The phase of the market data, or the last known one while PostgreSQL is away."""
    return Flags(settings.home, servers.postgres_dsn if servers else None).current().phase()
