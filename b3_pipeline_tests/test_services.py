from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from b3_pipeline.errors import B3Error
from b3_pipeline.home import HomeBusy, State, hold
from b3_pipeline.ports import HOST, PortBusy, is_free
from b3_pipeline.processes import Child, Program
from b3_pipeline.progress import SILENT
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.services import Engines, all_services, engines, restarts, running, states, stop_holder
from b3_pipeline.settings import Settings
from b3_pipeline_tests.waiting import processes_of, until

USING = """
import time
from b3_pipeline.services import engines
from b3_pipeline.settings import Settings
with engines(Settings()) as servers:
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def settings(bare_home: Path, port_base: int) -> Settings:
    return Settings(home=bare_home, port_base=port_base, questdb_memory="256m")


def answers(servers: Engines) -> bool:
    with QuestDB(servers.questdb) as quest, psycopg.connect(servers.postgres_dsn) as relational:
        return quest.query("select 1") == [(1,)] and relational.execute("select 1").fetchone() == (1,)


def test_a_block_has_servers_of_its_own_and_leaves_none(settings: Settings) -> None:
    with engines(settings) as outer:
        assert answers(outer)
        with engines(settings) as inner:
            assert inner == outer
        assert answers(outer), "an inner block stops nothing"
        assert states(settings) == {
            "questdb": True,
            "postgres": True,
            "dagster-code-server": False,
            "dagster-webserver": False,
            "dagster-daemon": False,
            "collector": False,
            "monitor": False,
            "api": False,
        }
        with QuestDB(outer.questdb) as db:
            db.execute("create table kept (ts timestamp)")
        secret = (settings.home / "secrets" / "postgres").read_text()
        assert secret not in repr(outer)
        assert outer.questdb.password not in repr(outer)
    assert processes_of(settings.home) == []
    assert not any(states(settings).values())
    assert running(settings) is None
    with engines(settings) as again, QuestDB(again.questdb) as db:
        assert db.query("select table_name from tables() where table_name = 'kept'") == [("kept",)]


def test_servers_given_by_url_are_used_and_nothing_is_started(questdb: Address, postgres: str, tmp_path: Path) -> None:
    url = questdb.http_url.replace("://", f"://{questdb.user}:{questdb.password}@") + f"?pg_port={questdb.pg_port}"
    settings = Settings(home=tmp_path / "home", questdb_url=SecretStr(url), postgres_dsn=SecretStr(postgres))
    with engines(settings) as servers:
        assert answers(servers)
    assert not settings.home.exists()
    assert states(settings)["questdb"]
    assert states(settings)["postgres"]


def test_one_server_by_url_leaves_the_other_embedded(questdb: Address, bare_home: Path) -> None:
    url = questdb.http_url.replace("://", f"://{questdb.user}:{questdb.password}@") + f"?pg_port={questdb.pg_port}"
    settings = Settings(home=bare_home, questdb_url=SecretStr(url))
    with engines(settings) as servers:
        assert answers(servers)
        assert not (settings.home / "questdb").exists()


def test_a_killed_command_leaves_no_server_and_the_next_one_starts(settings: Settings) -> None:
    env = {**os.environ, "B3_HOME": str(settings.home), "B3_PORT_BASE": str(settings.port_base)}
    with subprocess.Popen([sys.executable, "-c", USING], env=env, stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout is not None
            assert command.stdout.readline() == "up\n"
            with pytest.raises(HomeBusy, match=rf"pid {command.pid}"), engines(settings):
                pass
            with pytest.raises(HomeBusy, match=rf"pid {command.pid}"):
                stop_holder(settings)
            assert len(processes_of(settings.home)) > 2
        finally:
            command.kill()
    if sys.platform == "linux":
        until(lambda: processes_of(settings.home) == [])
    with engines(settings) as servers:
        assert answers(servers)
    assert processes_of(settings.home) == []


def test_a_home_without_a_holder_has_no_restarts_and_one_tells_of_its_own(settings: Settings) -> None:
    assert restarts(settings) == {}
    with hold(settings, shared=True) as held:
        assert set(restarts(settings).values()) == {0}
        held.restarted({"questdb": 2})
        held.reached(State.READY)
        assert restarts(settings)["questdb"] == 2
    assert restarts(settings) == {}


def test_a_server_that_cannot_start_takes_the_other_one_down(settings: Settings) -> None:
    with socket.create_server((HOST, settings.ports.questdb_pg)), pytest.raises(PortBusy), engines(settings):
        pass
    (settings.home / "postgres" / "data").mkdir(parents=True)
    (settings.home / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(B3Error, match="made by PostgreSQL 9"), engines(settings):
        pass
    assert processes_of(settings.home) == []


def test_what_an_interrupted_up_left_on_a_port_is_ended_before_the_port_is_asked_for(settings: Settings) -> None:
    listen = f"import socket, time; s = socket.create_server(('{HOST}', {settings.ports.dagster})); time.sleep(60)"
    left = Child(Program("dagster-webserver", [sys.executable, "-c", listen], Path("/"), {}), settings.home)
    until(lambda: not is_free(settings.ports.dagster))
    (settings.home / "postgres" / "data").mkdir(parents=True)
    (settings.home / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    refused = pytest.raises(B3Error, match="made by PostgreSQL 9")
    with refused, hold(settings, shared=True) as held, all_services(settings, SILENT, held):
        pass
    left.forget()
    assert processes_of(settings.home) == []


def test_nothing_runs_in_a_new_home_and_there_is_nothing_to_stop(settings: Settings) -> None:
    assert running(settings) is None
    assert not any(states(settings).values())
    assert stop_holder(settings) == []
