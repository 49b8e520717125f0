"""Fixtures that every test may use: the shared data, real servers, real Dagster instances."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import hypothesis
import pytest

from b3_pipeline import processes
from b3_pipeline.ports import HOST, is_free
from b3_pipeline.postgres.server import PostgresServer
from b3_pipeline.progress import SILENT
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import Address, QuestDB, named
from b3_pipeline.questdb.jar import questdb_jar
from b3_pipeline.questdb.server import QuestDBServer
from b3_pipeline.settings import Ports
from b3_pipeline.tables import TABLES

# No test asks the world: a collector or doctor that runs in one has the legacy files only, unless it is given servers.
os.environ["B3_SOURCES_OFF"] = "settlement_report,financial_indicators,vol_surface,dxy_chart"
_KEPT = ("B3_JAR_CACHE", "B3_SOURCES_OFF")
REPO = Path(__file__).resolve().parent.parent
# A busy machine is no defect of ours, and a run must not depend on chance: `HYPOTHESIS_PROFILE=search` looks further.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded input beside the project."""
    folder = REPO.parent / "shared"
    if not (folder / "data").is_dir():
        reason = f"{folder} is missing: put the recorded data (shared/data) beside the project"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def httpserver_listen_address() -> tuple[str, int]:
    """Where pytest-httpserver's one server listens: the address that the project itself uses, any free port."""
    return HOST, 0


def free_port_base() -> int:
    """The first of six ports that are free now, below the range that outgoing connections take theirs from."""
    bases = random.SystemRandom().sample(range(10_000, 32_000, 10), 200)
    return next(base for base in bases if all(is_free(port) for port in range(base, base + 6)))


@pytest.fixture
def port_base() -> int:
    """The first of six ports that are free now."""
    return free_port_base()


def environment_of(home: Path, port_base: int) -> dict[str, str]:
    """The environment of a `b3` in a home of its own, with embedded servers."""
    ours = {"B3_HOME": str(home), "B3_PORT_BASE": str(port_base), "B3_QUESTDB_MEMORY": "256m"}
    return {k: v for k, v in os.environ.items() if not k.startswith("B3_") or k in _KEPT} | ours


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for a home, gone afterwards.

    Not under pytest's: each session of pytest closes that one to other users again, and PostgreSQL is one, under root.
    """
    with tempfile.TemporaryDirectory(prefix="b3-test-") as folder:
        yield Path(folder).resolve() / "home"


@pytest.fixture
def bare_home() -> Iterator[Path]:
    """A home that is not there yet; for tests that start PostgreSQL, instead of `tmp_path`."""
    with temporary_home() as folder:
        yield folder


@pytest.fixture(scope="session")
def questdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A real QuestDB, empty at first: one for each pytest-xdist worker, so that tests of two workers share no table."""
    options = {"dev.mode.enabled": True}  # tests suspend a table as a full disk would
    server = QuestDBServer(tmp_path_factory.mktemp("questdb"), Ports(free_port_base()), "512m", options)
    child = server.start(questdb_jar(SILENT))
    try:
        server.wait()
        yield server.address
    finally:
        processes.stop([child])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a real PostgreSQL with an empty database b3: one for each pytest-xdist worker."""
    with temporary_home() as folder:
        server = PostgresServer(folder)
        child = server.start()
        try:
            server.wait()
            yield server.dsn
        finally:
            processes.stop([child])


@pytest.fixture
def db(questdb: Address) -> Iterator[QuestDB]:
    """A client of the real QuestDB, with the schema applied and every table of ours empty."""
    with QuestDB(questdb) as client:
        schema.apply(client, lambda: datetime.now(UTC))
        for table in TABLES:
            client.wait_applied(table)  # a test need not have waited for all that it sent
            if client.scalar(named("select count() from {t}", t=table)):
                client.execute(f"TRUNCATE TABLE {table}")
                client.wait_applied(table)
        yield client


@pytest.fixture
def home(tmp_path: Path, db: QuestDB, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty B3_HOME whose commands use the tests' real servers, QuestDB's tables empty."""
    address = db.address
    server = f"{quote(address.user)}:{quote(address.password)}@{address.http_url.removeprefix('http://')}"
    folder = tmp_path / "home"
    folder.mkdir()
    for variable, value in {
        "B3_HOME": str(folder),
        "B3_QUESTDB_URL": f"http://{server}?pg_port={address.pg_port}",
        "B3_POSTGRES_DSN": postgres,
        "B3_NOW": "2025-10-14T15:00:00+00:00",
    }.items():
        monkeypatch.setenv(variable, value)
    for variable in ("DAGSTER_HOME", "B3_DAGSTER_POSTGRES_URL", "B3_LEGACY_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return folder


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names bytes by their number: a zip has the time of its making in it, and workers must name tests alike."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
