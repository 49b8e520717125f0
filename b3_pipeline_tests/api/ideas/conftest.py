"""The ideas' routes over each store, behind the layer that asks for keys; no QuestDB."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from b3_pipeline.api.around import Around
from b3_pipeline.api.ideas.routes import router
from b3_pipeline.api.keys import Guarded
from b3_pipeline.api.service import Service
from b3_pipeline.api.v1.errors import install
from b3_pipeline.lowdb.store import Store
from b3_pipeline.postgres.flags import DEFAULTS, Current
from b3_pipeline.settings import Settings
from b3_pipeline_tests.api.v1.conftest import NOW, Away
from b3_pipeline_tests.lowdb import stores
from b3_pipeline_tests.lowdb.stores import Made

KEY = "k" * 20


@dataclass
class Ideas:
    """Who asks, with the key for changes."""

    client: TestClient
    app: FastAPI

    def ask(self, method: str, path: str, status: int = 200, **how: Any) -> Any:
        """The document that is answered, which must have this status."""
        answer = self.client.request(method, f"/api/v1/{path}", **how)
        assert answer.status_code == status, answer.text
        kind = "application/json" if status < 400 else "application/problem+json"
        assert answer.headers["content-type"] == kind
        assert answer.json()["success"] is (status < 400)
        return answer.json()

    def tag(self, path: str) -> str:
        """The ETag of what is there."""
        return self.client.get(f"/api/v1/{path}").headers["etag"]

    @property
    def store(self) -> Store:
        return self.app.state.service.ideas

    @store.setter
    def store(self, store: Store) -> None:
        self.app.state.service.ideas = store


@contextlib.contextmanager
def opened(made: Made, home: Path) -> Iterator[Ideas]:
    """The routes over a store."""
    settings = Settings(home=home, now=NOW, api_key=SecretStr(KEY), api_rate=100_000)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with made.opened() as store:
            away: Any = Away()
            app.state.service = Service(settings, away, None, Current(DEFAULTS), ideas=store)
            yield

    app = FastAPI(title="b3_pipeline", version="test", lifespan=life)
    app.include_router(router)
    install(app)
    layers = Around(Guarded(app, settings), lambda *_counted: None)
    with TestClient(layers, raise_server_exceptions=False, headers={"X-API-Key": KEY}) as client:
        yield Ideas(client, app)


@pytest.fixture(params=[stores.TABLES, stores.FILES])
def ideas(request: pytest.FixtureRequest, postgres: str, tmp_path: Path) -> Iterator[Ideas]:
    """The routes over an empty store of each kind."""
    folder = tmp_path / "lowdb"
    folder.mkdir()
    if request.param == stores.TABLES:
        stores.empty(postgres)
    with opened(Made(request.param, postgres, folder), tmp_path / "home") as given:
        yield given
