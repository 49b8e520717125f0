"""What every route is given: the store, the phase, the clock, and where the home's other parts are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from b3_pipeline.api.sharing import Shared
from b3_pipeline.api.store import Store, StoreAway
from b3_pipeline.ports import HOST
from b3_pipeline.postgres import mismatches
from b3_pipeline.postgres.flags import Current, Flags
from b3_pipeline.settings import Settings

#: Pages of tables that are made at once: one may have 33 000 rows, and the processor has other things to do.
PAGES = 2
#: How often flags and phase are read again: processes follow within a second.
FLAGS_EVERY_S = 0.5


@dataclass
class Service:
    """One process of the service. `shared` has results for all who ask the same at once; `flags` is as of half a second ago.

    Who makes a page of a table holds `pages` meanwhile.
    """

    settings: Settings
    store: Store
    postgres_dsn: str | None = field(repr=False)
    flags: Current
    shared: Shared[Any] = field(default_factory=lambda: Shared(StoreAway))
    pages: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PAGES))

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
    from b3_pipeline.services import known_engines

    engines = known_engines(settings)
    flags = Flags(settings.home, engines.postgres_dsn)
    async with Store(engines.questdb) as store:
        made = Service(settings, store, engines.postgres_dsn, await asyncio.to_thread(flags.current))
        following = asyncio.create_task(_follow(made, flags))
        try:
            yield made
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


async def _follow(made: Service, flags: Flags) -> None:
    while True:
        await asyncio.sleep(FLAGS_EVERY_S)
        made.flags = await asyncio.to_thread(flags.current)  # never fails
