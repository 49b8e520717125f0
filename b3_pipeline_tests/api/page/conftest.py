"""The page by itself: its routes over an overview that a test holds in its hand, served, and looked at in a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from playwright.sync_api import Browser, BrowserContext, Page
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from b3_pipeline.api.around import CSP
from b3_pipeline.api.page import routes
from b3_pipeline.api.page.panels import mismatches
from b3_pipeline.api.page.parity import Differed, Parity
from b3_pipeline.api.sharing import Answer, Shared
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.v1.errors import install
from b3_pipeline.api.v1.models import Overview
from b3_pipeline.ports import HOST
from b3_pipeline_tests.api.page import made
from b3_pipeline_tests.browser import chromium
from b3_pipeline_tests.conftest import free_port_base
from b3_pipeline_tests.waiting import until


@dataclass
class Desk:
    """What the page is told: stands in for the service. `away`: QuestDB does not answer."""

    overview: Overview
    away: bool = False
    parity_away: bool = False
    mismatches: list[dict[str, Any]] = field(default_factory=list)
    parity: Parity = field(default_factory=lambda: Parity({"equal": 3}, None, Differed(0, 0, [], [])))
    dagster_url: str = made.DAGSTER


async def parity_of(desk: Any) -> Parity:
    """How parity stands at a desk: as it says, with its mismatches, all of them open."""
    if desk.parity_away:
        return replace(desk.parity, differed=None)
    if not desk.mismatches:
        return desk.parity
    shown = mismatches(desk.mismatches)
    callers = desk.parity.differed.callers if desk.parity.differed else []
    return replace(desk.parity, differed=Differed(sum(not m.settled for m in shown), len(shown), shown, callers))


def asking() -> routes.Ask:
    """The overview of a desk as the API gives it: the last known one while QuestDB is away."""
    shared: Shared[Overview] = Shared(StoreAway, shared_s=0)

    async def ask(service: Any) -> Answer[Overview]:
        async def now() -> Overview:
            if service.away:
                raise StoreAway("QuestDB does not answer.")
            return service.overview

        return await shared.get("overview", now)

    return ask


def app_of(desk: Desk) -> FastAPI:
    """The page's routes alone, with what lies around them in the service: compression, CSP, problems."""
    app = FastAPI()
    app.state.service = desk
    app.include_router(routes.router)
    routes.mount(app, asking(), parity_of)
    install(app)
    app.add_middleware(GZipMiddleware, minimum_size=500)

    @app.middleware("http")
    async def guarded(request: Request, answer: Any) -> Response:
        response = await answer(request)
        response.headers["content-security-policy"] = CSP
        return response

    return app


@pytest.fixture
def desk(shared: Path) -> Desk:
    return Desk(made.full(shared))


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    with TestClient(app_of(desk)) as client:
        yield client


@dataclass
class Server:
    """An application on a port of its own; it can be stopped and started again there."""

    app: Callable[[], ASGIApp]
    port: int
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        config = uvicorn.Config(
            self.app(), HOST, self.port, log_level="warning", ws="none", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server is not None and self._server.started)

    def stop(self) -> None:
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join(30)
            self._server = self._thread = None


class Served(Server):
    """The page of a desk."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(lambda: app_of(desk), free_port_base())
        self.desk = desk


@pytest.fixture
def served(desk: Desk) -> Iterator[Served]:
    served = Served(desk)
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")  # no longer: while it is there, no other test of its process can run a loop
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@dataclass
class Seen:
    """A page in the browser, and what it complained of: errors in its console, uncaught ones, violations of the CSP."""

    page: Page
    complaints: list[str]


@pytest.fixture
def look(served: Server, browser: Browser) -> Iterator[Any]:
    """Opens the served page: `look("/", width=360, color_scheme="dark")`. The browser's clock stands at the overview's time."""
    contexts: list[BrowserContext] = []

    def opened(path: str = "/", width: int = 1440, height: int = 900, wait: bool = True, **options: Any) -> Seen:
        context = browser.new_context(viewport={"width": width, "height": height}, locale="pt-BR", **options)
        contexts.append(context)
        context.set_default_timeout(30_000)
        context.clock.set_fixed_time(made.NOW)
        page, complaints = context.new_page(), []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{served.url}{path}")
        if wait:
            drawn(page)
        return Seen(page, complaints)

    yield opened
    for context in contexts:
        context.close()


def drawn(page: Page) -> None:
    """Returns once every place for a chart has its picture."""
    page.wait_for_function(
        "() => { const places = [...document.querySelectorAll('[data-chart]')];"
        " return places.length > 0 && places.every((p) => p.dataset.theme && p.firstElementChild); }"
    )
