"""The service put together: which routes there are, and what lies around all of them."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from b3_pipeline.api import metrics, reference
from b3_pipeline.api import service as of_home
from b3_pipeline.api.around import Around, own_hosts
from b3_pipeline.api.ideas import routes as ideas
from b3_pipeline.api.keys import Guarded
from b3_pipeline.api.legacy import LegacyFront
from b3_pipeline.api.logs import log, log_to_stderr
from b3_pipeline.api.page import routes as page_routes
from b3_pipeline.api.service import Service
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.switch import legacy_contract
from b3_pipeline.api.v1 import errors, overview, signals_bots, signals_routes
from b3_pipeline.api.v1 import routes as v1
from b3_pipeline.api.v1.front import OverviewFront
from b3_pipeline.settings import Settings

Opened = Callable[[], AbstractAsyncContextManager[Service]]
DESCRIPTION = (
    "The Brazilian market data of one trading desk: settlements, indicators, volatility surface, gamma levels and the "
    "dollar index, as they were known when. Times are UTC, prices in the exchange's own units, rates in percent a year."
)
#: A document of some kilobytes becomes a tenth of itself; anything shorter is sent as it is.
_COMPRESSED_FROM = 1_000


def create_app(
    opened: Opened | None = None, settings: Settings | None = None, settled: Callable[[], object] = lambda: None
) -> FastAPI:
    """The application. `opened` gives the service for the application's life; by default that of the settings' home.

    `settled` is called once everything is there, before the first request.
    """
    given = settings or Settings()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with (
            (opened or partial(of_home.service, given))() as service,
            legacy_contract(service, service.settings.payload_ignore) as legacy,
            metrics.counting(service.settings, legacy.switch) as tell,
        ):
            app.state.service, app.state.legacy, app.state.tell = service, legacy, tell
            await _warm(service)
            settled()
            yield

    app = FastAPI(
        title="b3_pipeline",
        version=version("b3-pipeline"),
        description=DESCRIPTION,
        lifespan=life,
        docs_url=None,  # its page takes its script from elsewhere; ours is at the same address
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    errors.install(app)
    app.include_router(v1.router)
    app.include_router(signals_routes.router)
    app.include_router(signals_bots.router)
    app.include_router(ideas.router)
    app.include_router(page_routes.router)
    app.include_router(metrics.router)
    app.include_router(reference.router)
    page_routes.mount(app)
    return app


async def _warm(service: Service) -> None:
    """Else the first who asks waits for what is worked out once, the calendar above all."""
    try:
        await overview.answered(service)
    except StoreAway:
        return  # it comes when it comes
    except Exception:
        log.exception("The first overview could not be made.")


def served() -> ASGIApp:
    """`everything`, in a process of its own."""
    return everything(_set_aside)


def served_legacy() -> ASGIApp:
    """`legacy_only`, in a process of its own."""
    return legacy_only(_set_aside)


def _set_aside() -> None:
    """What is there now stays for good, and the collector looks at it no more: each time that took 60 to 90 ms."""
    gc.collect()
    gc.freeze()


def everything(settled: Callable[[], object] = lambda: None) -> ASGIApp:
    """What the page's port serves: legacy routes, the current contract, the page. It logs to stderr."""
    log_to_stderr()  # here, for each worker is a process of its own
    settings = Settings()
    app = create_app(settings=settings, settled=settled)
    packed = GZipMiddleware(app, minimum_size=_COMPRESSED_FROM, compresslevel=5)
    guarded = Guarded(OverviewFront(packed, lambda: app.state.service), settings)
    return Around(LegacyFront(_WithState(guarded, app)), metrics.counted, own_hosts(settings))


def legacy_only(settled: Callable[[], object] = lambda: None) -> ASGIApp:
    """What the legacy port serves: the three legacy routes, and nothing else. It logs to stderr."""
    log_to_stderr()
    return Around(LegacyFront(create_app(settled=settled), alone=True), metrics.counted)


class _WithState:
    """A layer around an application that still shows the application's state."""

    def __init__(self, layer: ASGIApp, app: FastAPI) -> None:
        self._layer, self.state = layer, app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._layer(scope, receive, send)
