"""The service over real servers, with the recorded folder and a live session's payloads loaded."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from b3_pipeline.api.problems import Problem
from b3_pipeline.api.service import Service
from b3_pipeline.api.sharing import Shared
from b3_pipeline.api.store import Store, StoreAway
from b3_pipeline.api.v1.errors import install
from b3_pipeline.api.v1.routes import router
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.parsing.kinds import DXY_CHART, FINANCIAL_INDICATORS, REPORT, VOL_SURFACE, Kind
from b3_pipeline.postgres.flags import DEFAULTS, Current
from b3_pipeline.quality.sources import at_hand
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import Address, QuestDB, named
from b3_pipeline.sample_payloads import dxy_chart, financial_indicators, settlement_report, vol_surface
from b3_pipeline.settings import Settings
from b3_pipeline.tables import MARKET_TABLES, TABLES

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
#: The session whose report, indicators and surface came in live.
LIVE = date(2025, 10, 13)


class Away:
    """A store whose QuestDB does not answer."""

    async def rows(self, *_asked: object) -> list[dict[str, Any]]:
        raise StoreAway("QuestDB does not answer.")

    row = newest = rows


@dataclass
class Api:
    """A client of the service, the service itself, and a clock that goes on when told so."""

    client: TestClient
    service: Service
    passed: list[float] = field(default_factory=lambda: [0.0])

    def get(self, path: str, **parameters: Any) -> Any:
        """The document of a route."""
        answer = self.client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def later(self, seconds: float = 1) -> None:
        """What is shared is old now."""
        self.passed[0] += seconds


class Opening(Protocol):
    """Opens the service of a home."""

    def __call__(self, settings: Settings) -> AbstractContextManager[Api]: ...


def application(settings: Settings, address: Address, dsn: str | None, passed: list[float]) -> FastAPI:
    """The routes of this contract over a service of our own."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with Store(address) as store:
            shared = Shared[Any](StoreAway, clock=lambda: passed[0])
            app.state.service = Service(settings, store, dsn, Current(DEFAULTS), shared)
            yield

    app = FastAPI(title="b3_pipeline", version="test", lifespan=life)
    app.include_router(router)
    install(app)

    @app.get("/problem", include_in_schema=False)
    async def limited() -> None:
        raise Problem(429, "Ask again later.", {"Retry-After": "1"}, retry_after_s=1)

    @app.get("/defect", include_in_schema=False)
    async def defect() -> None:
        raise RuntimeError("select secret from /var/somewhere")

    return app


@contextmanager
def opened(settings: Settings, address: Address, dsn: str | None) -> Iterator[Api]:
    passed = [0.0]
    app = application(settings, address, dsn, passed)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Api(client, app.state.service, passed)


def pages(api: Api, path: str, **parameters: Any) -> list[list[dict[str, Any]]]:
    """All pages of a route, one after the other."""
    found, cursor = [], None
    while True:
        document = api.get(path, **parameters, **({"cursor": cursor} if cursor else {}))
        found.append(document["items"])
        cursor = document["next_cursor"]
        if cursor is None:
            return found
        assert len(found) < 2_000


def settings_of(home: Path, address: Address, dsn: str, **more: Any) -> Settings:
    """Of a home on the tests' servers, at one moment."""
    url = SecretStr(f"http://x:y@{address.pg_host}?pg_port={address.pg_port}")
    return Settings(home=home, questdb_url=url, postgres_dsn=SecretStr(dsn), now=NOW, **{"sources_off": [], **more})


def bring(db: QuestDB, home: Path, kind: Kind, data: bytes, name: str) -> None:
    """Loads a payload as a sensor would."""
    path = home / "received" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    payload = Payload(name, path, kind, hashlib.sha256(data).hexdigest(), len(data))
    loader = Loader(db, home, lambda: NOW, "run-1")
    for table in kind.tables:
        report = loader.load(payload, TABLES[table])
        assert report.outcome in ("loaded", "unchanged"), report.reason


def load(db: QuestDB, home: Path, folder: Path) -> None:
    """Loads a legacy folder as `b3 migrate` does, without Dagster."""
    loader = Loader(db, home, lambda: NOW, "run-1")
    payloads = [p for found in at_hand(folder, home) if (p := found.loadable)]
    for table in MARKET_TABLES:
        for report in load_all(loader, payloads, table):
            assert report.outcome in ("loaded", "unchanged"), report.reason


def clear(db: QuestDB) -> None:
    """Every table of ours, there and empty."""
    schema.apply(db, lambda: datetime.now(UTC))
    for table in TABLES:
        db.wait_applied(table)
        if db.scalar(named("select count() from {t}", t=table)):
            db.execute(f"TRUNCATE TABLE {table}")
            db.wait_applied(table)


@pytest.fixture(scope="module")
def loaded(questdb: Address, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Address]:
    """The clean folder, and the live payloads of 13 October: loaded once for all tests of a module, which change nothing."""
    home = tmp_path_factory.mktemp("home")
    with QuestDB(questdb) as db:
        clear(db)
        load(db, home, shared / "data" / "legacy" / "clean")
        bring(db, home, REPORT, settlement_report(LIVE), "SPRD251013.zip")
        bring(db, home, FINANCIAL_INDICATORS, financial_indicators(LIVE), "indicators.json")
        bring(db, home, VOL_SURFACE, vol_surface(LIVE), "surface.zip")
        bring(db, home, DXY_CHART, dxy_chart(datetime(2025, 10, 14, 14, 58, tzinfo=UTC)), "chart.json")
    return home, questdb


@pytest.fixture(scope="module")
def api(loaded: tuple[Path, Address], postgres: str) -> Iterator[Api]:
    """The service over what is loaded."""
    home, address = loaded
    with opened(settings_of(home, address, postgres), address, postgres) as given:
        yield given
