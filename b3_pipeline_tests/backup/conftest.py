"""A home with embedded servers and a part of the recorded clean folder in it, whose backups tests make and restore."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from b3_pipeline import processes
from b3_pipeline.backup.backups import Backup
from b3_pipeline.backup.creating import create
from b3_pipeline.home import State, hold
from b3_pipeline.loading.archived import archive_of
from b3_pipeline.postgres.server import PostgresServer
from b3_pipeline.progress import SILENT
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.questdb.jar import questdb_jar
from b3_pipeline.questdb.server import QuestDBServer
from b3_pipeline.services import Engines
from b3_pipeline.settings import Settings
from b3_pipeline_tests.conftest import environment_of, free_port_base, temporary_home
from b3_pipeline_tests.quality.conftest import ADJUSTMENTS, Desk

SETTINGS = """alert_group_s = 7
alert_slack_url = "https://hooks.example/very-secret"
"""
#: The server sets aside 16 MB a column else, which each copy of so little data would copy.
SMALL = {"cairo.writer.data.append.page.size": 65_536, "cairo.wal.writer.data.append.page.size": 65_536}


@dataclass(frozen=True)
class Home:
    """A home whose servers run, and the environment of a command in it."""

    settings: Settings
    servers: Engines
    env: dict[str, str]
    legacy: Path

    @property
    def folder(self) -> Path:
        return self.settings.home

    def create(self) -> Backup:
        return create(self.settings, self.servers)

    def b3(self, *arguments: str, die_at: str = "") -> subprocess.CompletedProcess[str]:
        """A command of a process of its own; it may be one that dies at a step."""
        return run(self.env, *arguments, die_at=die_at)


def run(env: dict[str, str], *arguments: str, die_at: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `b3` in a process of its own, which ends at a step as `kill -9` would."""
    given = {**env, **({"B3_DIE_AT": die_at} if die_at else {})}
    command = [sys.executable, "-m", "b3_pipeline", *arguments]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=240, check=False)


@contextmanager
def environment(env: dict[str, str]) -> Iterator[None]:
    """This process with another environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("B3_") and name not in env]:
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        yield


@contextmanager
def serving(settings: Settings) -> Iterator[Engines]:
    """The embedded servers of a home, started here; our child processes may use them."""
    questdb = QuestDBServer(settings.home, settings.ports, "256m", SMALL)
    postgres = PostgresServer(settings.home)
    with hold(settings, shared=False) as held:
        children = [questdb.start(questdb_jar(SILENT)), postgres.start()]
        try:
            questdb.wait()
            postgres.wait()
            held.reached(State.ENGINES)
            yield Engines(questdb.address, postgres.dsn)
        finally:
            processes.stop(children)


@contextmanager
def home_with_history(shared: Path) -> Iterator[Home]:
    """A home with a loaded history, its servers up."""
    with temporary_home() as folder:
        env = environment_of(folder, free_port_base()) | {"B3_NOW": "2025-10-14T15:00:00+00:00"}
        legacy = folder.parent / "legacy"
        clean = shared / "data" / "legacy" / "clean"
        shutil.copytree(clean / "historico", legacy / "historico")
        for name in (ADJUSTMENTS, "ultimo_dado.json", "gamma.json"):
            shutil.copyfile(clean / name, legacy / name)
        with environment(env):
            settings = Settings()
            folder.mkdir(mode=0o700)
            (folder / "settings.toml").write_text(SETTINGS, "utf-8")
            archive_of(folder).append("yahoo_dxy", b"{}", name="chart.json", at=settings.clock())
            with serving(settings) as servers, QuestDB(servers.questdb) as db:
                schema.apply(db, settings.clock)
                Desk(db, folder, legacy).load()
                yield Home(settings, servers, env, legacy)


@pytest.fixture(scope="package")
def kept(shared: Path) -> Iterator[Home]:
    """A home with a loaded history, its servers up for all tests of backups; what a test writes, it takes back."""
    with home_with_history(shared) as home:
        yield home
