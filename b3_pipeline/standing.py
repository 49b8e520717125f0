"""How the home stands: what each table has and when more is due, what of the archive is not loaded, the phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from b3_pipeline.loading.archived import archive_of, loaded_upto
from b3_pipeline.metrics.exposition import Probes
from b3_pipeline.postgres.flags import Flags
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.freshness import Freshness, freshness_of
from b3_pipeline.quality.of_home import context_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import Engines, running
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import Archive, ArchiveDamaged, Entry
from b3_pipeline.sources.state import State
from b3_pipeline.tables import MARKET_TABLES


def freshness_of_tables(context: Context) -> dict[str, Freshness]:
    """How fresh each market table is that is there, as its check judges it."""
    there = {name for (name,) in context.db.query("select table_name from tables()")}
    return {t.name: freshness_of(context, t) for t in MARKET_TABLES if t.name in there}


def tables(settings: Settings, engines: Engines) -> dict[str, dict[str, Any]]:
    """The rows of each market table, its newest moment (UTC) and that one's age, when more is due, whether it is fresh."""
    dsn = engines.postgres_dsn
    with QuestDB(engines.questdb) as db:
        found = freshness_of_tables(context_of(settings, db, (), dsn, Flags(settings.home, dsn).current()))
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
    return {source: _standing(archive, source) for source in archive.sources() if archive.last(source)}


def _standing(archive: Archive, source: str) -> dict[str, Any]:
    """One source of the archive: what is damaged or missing counts as not loaded, and is its problem."""
    last, upto = archive.last(source), max(loaded_upto(archive, source), archive.first(source) - 1)
    waiting: list[Entry] = []
    damage = None
    for seq in range(upto + 1, last + 1):
        try:
            if entry := archive.entry(source, seq):
                waiting.append(entry)
            else:
                damage = damage or f"The archive has no entry {seq}, but later ones."
        except ArchiveDamaged as error:
            damage = damage or str(error)
    try:
        newest = archive.newest(source)
    except ArchiveDamaged as error:
        newest, damage = None, damage or str(error)
    return {
        "newest": newest.at if newest else None,
        "behind": max(0, last - upto),
        "behind_bytes": sum(entry.size for entry in waiting),
        "problem": damage or State.read(archive.place(source)).problem,
    }


def probes(settings: Settings) -> Probes:
    """What the monitor asks at scrape time."""

    def of_tables() -> Mapping[str, Mapping[str, Any]]:
        servers = running(settings)
        return tables(settings, servers) if servers else {}

    return Probes(tables=of_tables, archive=lambda: archived(settings))


def phase(settings: Settings, servers: Engines | None) -> str:
    """The phase of the market data, or the last known one while PostgreSQL is away."""
    return Flags(settings.home, servers.postgres_dsn if servers else None).current().phase()
