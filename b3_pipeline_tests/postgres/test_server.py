from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from b3_pipeline import processes
from b3_pipeline.postgres.server import SOCKET, PostgresError, PostgresServer, sockets_of
from b3_pipeline.processes import Child
from b3_pipeline.progress import Report
from b3_pipeline.sockets import LONGEST_SOCKET_PATH, SocketRefused


@contextmanager
def running(home: Path) -> Iterator[tuple[PostgresServer, Child]]:
    server = PostgresServer(home)
    child = server.start()
    try:
        server.wait()
        yield server, child
    finally:
        processes.stop([child])


def test_its_data_outlive_a_stop_a_kill_and_a_stale_pid_file(bare_home: Path) -> None:
    with running(bare_home) as (server, child):
        with psycopg.connect(server.dsn) as db:
            db.execute("create table kept as select 42 as answer")
        psutil.Process(child.pid).kill()
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data}\n")
    with running(bare_home) as (server, _), psycopg.connect(server.dsn) as db:
        assert db.execute("select answer, current_database() from kept").fetchone() == (42, "b3")


def test_nobody_gets_in_without_the_password(postgres: str) -> None:
    dsn = conninfo_to_dict(postgres)
    for password in ("", "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(**{**dsn, "password": password})


def test_it_listens_on_no_network_and_shows_its_password_to_nobody(bare_home: Path) -> None:
    with running(bare_home) as (server, child):
        process = psutil.Process(child.pid)
        assert [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
        secret = (bare_home / "secrets" / "postgres").read_text()
        seen = " ".join(process.cmdline()) + str(process.environ()) + child.log.read_text() + str(child.record)
        assert secret in server.dsn
        assert secret not in seen
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
        assert stat.S_IMODE(sockets_of(bare_home).stat().st_mode) == 0o700
    assert [p.name for p in server.folder.iterdir()] == ["data"]


class Told(Report):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, message: str) -> None:
        self.messages.append(message)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
def test_as_root_it_says_in_one_line_which_folders_it_opened_to_others_and_only_once(bare_home: Path) -> None:
    told = Told()
    bare_home.mkdir(mode=0o700)
    for _ in range(2):
        processes.stop([PostgresServer(bare_home).start(told)])
    [message] = told.messages
    assert "others may now pass through (not list)" in message
    assert str(bare_home) in message
    assert "\n" not in message
    assert stat.S_IMODE(bare_home.stat().st_mode) == 0o701


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
def test_for_root_it_runs_as_a_user_who_cannot_read_the_home(bare_home: Path) -> None:
    bare_home.mkdir(mode=0o700)
    with running(bare_home) as (_, child):
        assert psutil.Process(child.pid).uids().real != 0
    assert stat.S_IMODE(bare_home.stat().st_mode) == 0o701
    assert stat.S_IMODE((bare_home / "secrets").stat().st_mode) == 0o700


def test_a_home_too_deep_for_a_socket_gets_a_short_folder_of_its_own(bare_home: Path) -> None:
    deep = bare_home / ("deep" * 30)
    folder = sockets_of(deep)
    assert bare_home not in folder.parents
    assert len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET_PATH
    assert folder != sockets_of(bare_home / ("deep" * 31))
    with running(deep) as (server, _), psycopg.connect(server.dsn) as db:
        assert db.execute("select 1").fetchone() == (1,)
    folder.rmdir()


def test_a_folder_of_somebody_else_is_not_used_for_the_socket(bare_home: Path) -> None:
    (bare_home / "elsewhere").mkdir(parents=True)
    (bare_home / "run").mkdir()
    (bare_home / "run" / "pg").symlink_to(bare_home / "elsewhere")
    with pytest.raises(SocketRefused, match="belongs to somebody else"):
        PostgresServer(bare_home).start()


def test_a_cluster_of_another_major_version_is_refused_untouched(bare_home: Path) -> None:
    data = bare_home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(PostgresError, match=r"made by PostgreSQL 16, this is 18(?s:.)*B3_POSTGRES_DSN"):
        PostgresServer(bare_home).start()
    assert [p.name for p in data.iterdir()] == ["PG_VERSION"]


def test_a_lost_password_is_said_to_be_lost(bare_home: Path) -> None:
    with running(bare_home):
        pass
    (bare_home / "secrets" / "postgres").unlink()
    with pytest.raises(PostgresError, match="is not the password"), running(bare_home):
        pass
