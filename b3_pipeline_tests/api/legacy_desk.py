"""A desk whose captures are loaded, the service over it, and the server before: what the tests of the legacy contract ask."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from b3_pipeline.api.service import Service
from b3_pipeline.api.store import Store
from b3_pipeline.api.switch import legacy_contract
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import Payload, payload, survey
from b3_pipeline.parsing.kinds import Kind
from b3_pipeline.ports import HOST
from b3_pipeline.postgres.flags import DEFAULTS, Current, Entry
from b3_pipeline.quality.documents import CAPTURES
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES

T = TypeVar("T")
NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


def load(db: QuestDB, home: Path, *payloads: Payload) -> None:
    """Loads payloads into all of their tables."""
    loader = Loader(db, home, lambda: NOW, "run-1")
    for each in payloads:
        for table in each.kind.tables:
            load_all(loader, [each], TABLES[table])


def load_folder(db: QuestDB, home: Path, folder: Path) -> None:
    """Loads all of a legacy folder that loads."""
    load(db, home, *[each for found in survey(folder) if (each := found.loadable)])


def load_documents(db: QuestDB, home: Path, folder: Path) -> None:
    """Loads a folder's documents into `b3_captures` alone, which is all that most answers are made of."""
    load_all(Loader(db, home, lambda: NOW, "run-1"), [p for f in survey(folder) if (p := f.loadable)], CAPTURES)


def load_bytes(db: QuestDB, home: Path, path: Path, data: bytes, kind: Kind) -> None:
    """Loads a document that is written to a file first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    load(db, home, payload(path, kind))


def phase(name: str) -> Current:
    """The flags of a home that is in a phase."""
    return Current(DEFAULTS | {("market", "phase"): Entry("market", "phase", name)})


@asynccontextmanager
async def service(address: Address, phase_name: str = "active", **settings: Any) -> AsyncIterator[Service]:
    """A service over the tests' servers (those of the fixture `home`), in a phase."""
    made = Settings(**settings)
    dsn = made.postgres_dsn.get_secret_value() if made.postgres_dsn else None
    async with Store(address) as store:
        yield Service(made, store, dsn, phase(phase_name))


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an ASGI application in this process; a defect in it is raised here."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://desk") as made:
        yield made


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Runs a coroutine to its end, in a loop of its own."""

    async def all_of_it() -> T:
        return await work()

    return asyncio.run(all_of_it())


@contextmanager
def legacy_server(shared: Path, folder: Path) -> Iterator[str]:
    """The server being replaced over a folder, on a free port; gives its URL."""
    spec = importlib.util.spec_from_file_location("legacy_json_server", shared / "tools" / "legacy_json_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler: Any = type("Handler", (module.Handler,), {"folder": folder})
    with ThreadingHTTPServer((HOST, 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        serving.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join(10)


def changed(data: bytes, **members: Any) -> bytes:
    """A capture with other members at its top."""
    return json.dumps(json.loads(data) | members, ensure_ascii=False).encode()


@asynccontextmanager
async def contract_client(address: Address, phase_name: str, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the legacy routes as they are put together for a home."""
    async with (
        service(address, phase_name, **settings) as made,
        legacy_contract(made) as contract,
        client(contract) as asking,
    ):
        yield asking
