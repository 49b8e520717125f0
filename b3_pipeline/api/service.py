"""What every route is given: the store, the phase, the clock, and where the home's other parts are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from b3_pipeline.api.sharing import Shared
from b3_pipeline.api.store import Store, StoreAway
from b3_pipeline.api.writers import Writers
from b3_pipeline.lowdb.store import Store as Ideas
from b3_pipeline.lowdb.tables import Tables
from b3_pipeline.ports import HOST
from b3_pipeline.postgres import mismatches
from b3_pipeline.postgres.flags import Current, Flags
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import FOLDER, Archive

#: Pages of tables that are made at once: one may have 33 000 rows, and the processor has other things to do.
PAGES = 2
#: How often flags and phase are read again: processes follow within a second.
FLAGS_EVERY_S = 0.5
#: How long what is handed in waits for whoever else writes into the archive.
ARCHIVE_PATIENCE_S = 2.0


def _no_ideas() -> Ideas:
    """Of a service that was given no store of the ideas: it is away."""
    return Tables(None, lambda: datetime.now(UTC))


@dataclass
class Service:
    """One process of the service. `shared` has results for all who ask the same at once; `flags` is as of half a second ago.

    Who makes a page of a table holds `pages` meanwhile. `reader_dsn` is for what only reads ideas and warehouse; None: as
    `postgres_dsn`. `ideas` are the idea bank and the documentation, wherever the phase of their domain has them.
    Routes that block while they write do so in `writers`.
    """

    settings: Settings
    store: Store
    postgres_dsn: str | None = field(repr=False)
    flags: Current
    shared: Shared[Any] = field(default_factory=lambda: Shared(StoreAway))
    pages: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PAGES))
    reader_dsn: str | None = field(default=None, repr=False)
    ideas: Ideas = field(default_factory=_no_ideas)
    writers: Writers = field(default_factory=Writers)

    @cached_property
    def archive(self) -> Archive:
        """The raw archive, for what is handed in: one, for it knows the names that it has."""
        return Archive(self.settings.home / FOLDER, patience_s=ARCHIVE_PATIENCE_S)

    @property
    def phase(self) -> str:
        """Who is in charge of the market data: legacy, shadow, active or frozen."""
        return self.flags.phase()

    def now(self) -> datetime:
        """This moment by the settings' clock, aware UTC."""
        return self.settings.clock()

    async def mismatches(self) -> int:
        """How many payloads differed that nobody has looked at. Raises B3Error while PostgreSQL is away."""
        if self.postgres_dsn is None:
            return 0
        return await asyncio.to_thread(mismatches.open_count, self.postgres_dsn)

    async def mismatch_list(self, limit: int = 50) -> list[dict[str, Any]]:
        """The payloads that differed last, newest first, with both bodies. Raises B3Error while PostgreSQL is away."""
        if self.postgres_dsn is None:
            return []
        return [asdict(found) for found in await asyncio.to_thread(mismatches.latest, self.postgres_dsn, limit)]

    @property
    def dagster_url(self) -> str:
        """Where people open Dagster."""
        return self.settings.public_url or f"http://{HOST}:{self.settings.ports.dagster}"


@asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[Service]:
    """The service of a home whose servers are up; follows the flags for the length of the block. Raises B3Error."""
    from b3_pipeline.lowdb.serving import opened
    from b3_pipeline.services import known_engines

    engines = known_engines(settings)
    flags = Flags(settings.home, engines.app_dsn)
    async with Store(engines.questdb) as store:
        standing = await asyncio.to_thread(flags.current)
        made = Service(settings, store, engines.app_dsn, standing, reader_dsn=engines.reader_dsn)
        following = asyncio.create_task(_follow(made, flags))
        try:
            async with opened(settings, engines.app_dsn, lambda: made.flags) as made.ideas:
                yield made
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


async def _follow(made: Service, flags: Flags) -> None:
    while True:
        await asyncio.sleep(FLAGS_EVERY_S)
        made.flags = await asyncio.to_thread(flags.current)  # never fails
