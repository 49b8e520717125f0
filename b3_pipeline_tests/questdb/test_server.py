from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import httpx2
import psutil
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline import processes
from b3_pipeline.ports import HOST, PortBusy
from b3_pipeline.progress import SILENT
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.questdb.jar import questdb_jar
from b3_pipeline.questdb.server import QuestDBServer, _java_property
from b3_pipeline.settings import Ports


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "casa do João"


def test_it_runs_in_a_home_with_spaces_and_accents_and_keeps_its_secrets(home: Path, port_base: int) -> None:
    server = QuestDBServer(home, Ports(port_base), "256m")
    address = server.address
    left = server.import_folder / "b3_loads" / "of-a-killed-load.parquet"
    left.parent.mkdir(parents=True)
    left.touch()
    child = server.start(questdb_jar(SILENT))
    try:
        server.wait()
        assert not left.exists()
        with QuestDB(address) as db:
            assert db.query("select count() > 0 from read_parquet('trades.parquet')") == [(True,)]
        assert httpx2.get(f"http://{HOST}:{port_base + 4}/metrics", trust_env=False).is_success
        seen = " ".join(psutil.Process(child.pid).cmdline()) + str(psutil.Process(child.pid).environ())
        seen += child.log.read_text("latin-1") + json.dumps(child.record.argv) + repr(address)
        for secret in (address.password, address.reader_password):
            assert secret not in seen
        listening = [c for c in psutil.Process(child.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert {(c.laddr[0].removeprefix("::ffff:"), c.laddr[1]) for c in listening} == {
            (HOST, port_base + n) for n in (2, 3, 4)
        }
    finally:
        processes.stop([child])
    conf = home / "questdb" / "conf" / "server.conf"
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert not list(home.rglob("hs_err*"))


def test_nobody_gets_in_without_the_password(questdb: Address) -> None:
    for auth in (None, ("admin", "quest"), (questdb.user, "wrong")):
        answer = httpx2.get(f"{questdb.http_url}/exec", params={"query": "select 1"}, auth=auth, trust_env=False)
        assert answer.status_code == 401
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host=questdb.pg_host, port=questdb.pg_port, user="admin", password="quest", dbname="qdb")


def test_the_reader_reads_and_cannot_write(questdb: Address) -> None:
    with psycopg.connect(
        host=questdb.pg_host, port=questdb.pg_port, user=questdb.reader, password=questdb.reader_password, dbname="qdb"
    ) as db:
        assert db.execute("select 1").fetchone() == (1,)
        with pytest.raises(psycopg.Error, match="permission"):
            db.execute("create table reader_was_here (ts timestamp)")


def test_a_busy_port_is_named_before_anything_starts(home: Path, port_base: int) -> None:
    server = QuestDBServer(home, Ports(port_base), "256m")
    with socket.create_server((HOST, port_base + 3)), pytest.raises(PortBusy, match=rf"{port_base + 3} \(QuestDB PG"):
        server.start(Path("unused.jar"))
    assert not home.exists()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_a_java_properties_file(text: str) -> None:
    escaped = _java_property(text)
    assert escaped.isascii()
    assert "\n" not in escaped
    assert json.loads(f'"{escaped}"') == text
