from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from b3_pipeline.cli import app
from b3_pipeline.cli.output import age
from b3_pipeline.dagster_server import DefinitionsBroken, daemon_healthy, storage_url, webserver_healthy
from b3_pipeline.dagster_server import environment as dagster_environment
from b3_pipeline.doctor import Check, examine
from b3_pipeline.errors import B3Error
from b3_pipeline.home import Holder, hold
from b3_pipeline.ports import HOST
from b3_pipeline.settings import Settings
from b3_pipeline_tests.conftest import environment_of
from b3_pipeline_tests.waiting import processes_of, until

pytestmark = pytest.mark.xdist_group("up")

NAMES = (
    "questdb",
    "postgres",
    "dagster-code-server",
    "dagster-webserver",
    "dagster-daemon",
    "collector",
    "monitor",
    "api",
)
TINY = """
import dagster as dg

@dg.asset
def one() -> int:
    return 1

defs = dg.Definitions(assets=[one])
"""


@pytest.fixture
def environment(bare_home: Path, port_base: int) -> dict[str, str]:
    return environment_of(bare_home, port_base)


@pytest.fixture
def b3(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """Runs `b3` in this process, in a home of the test's."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def definitions(folder: Path, code: str) -> Path:
    file = folder / "tiny.py"
    file.write_text(code)
    return file


def run(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "b3_pipeline", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)


@contextmanager
def starting(environment: dict[str, str], file: Path) -> Iterator[subprocess.Popen[str]]:
    """`b3 up` in the foreground, from the moment when it waits for Dagster."""
    command = [sys.executable, "-m", "b3_pipeline", "up", "--definitions", str(file)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        assert any("Waiting for Dagster" in line for line in iter(up.stderr.readline, ""))
        yield up


def said(command: subprocess.Popen[str]) -> str:
    assert command.stderr is not None
    return command.stderr.read()


def holder_of(home: Path) -> Holder:
    holder = Holder.of(home)
    assert holder is not None
    return holder


def answer(command: subprocess.CompletedProcess[str]) -> Any:
    assert command.stdout, command.stderr
    return json.loads(command.stdout)


def test_up_is_shared_says_when_it_is_up_already_and_leaves_no_process_when_killed(
    bare_home: Path, environment: dict[str, str], port_base: int, tmp_path: Path
) -> None:
    first = run(environment, "up", "--detach", "--json", "--definitions", definitions(tmp_path, TINY))
    assert first.returncode == 0, first.stderr
    pid = holder_of(bare_home).pid
    try:
        assert answer(first)["pid"] == pid
        assert answer(first)["addresses"]["Dagster"]["address"] == f"http://{HOST}:{port_base + 1}"
        again = run(environment, "up", "--json")
        assert again.returncode == 0
        assert answer(again) == answer(first)

        status = run({**environment, "B3_PORT_BASE": "9000"}, "status", "--json")  # the holder's ports count
        assert status.returncode == 0
        assert answer(status)["services"] == dict.fromkeys(NAMES, "up")
        assert answer(status)["phase"] == "legacy"
        assert answer(status)["tables"]["b3_adjustments"]["rows"] == 0
        checks = {c["name"]: c for c in answer(run(environment, "doctor", "--json"))["checks"]}
        assert checks[f"port {port_base + 1} (Dagster)"]["found"].startswith("ours")
        assert checks["QuestDB server"]["state"] == "ok"
        assert checks["PostgreSQL server"]["found"] == "PostgreSQL 18"
        assert checks["page and API"] == {**checks["page and API"], "state": "ok", "found": "ok, phase legacy"}

        secrets = [file.read_text() for file in (bare_home / "secrets").iterdir()]
        told = "".join(file.read_text("latin-1") for file in (bare_home / "logs").iterdir())
        told += first.stdout + first.stderr
        told += "".join(" ".join(process.cmdline()) for process in processes_of(bare_home))
        assert len(secrets) == 4
        assert not any(secret in told for secret in secrets)
        assert len(processes_of(bare_home)) >= 7
    finally:
        os.kill(pid, signal.SIGKILL)
    if sys.platform == "linux":
        until(lambda: processes_of(bare_home) == [])
    else:
        assert set(answer(run(environment, "down", "--json"))["stopped"]) == set(NAMES)


def test_ctrl_c_and_down_stop_everything_also_while_it_starts(
    bare_home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with starting(environment, definitions(tmp_path, TINY)) as up:
        up.send_signal(signal.SIGINT)
        up.send_signal(signal.SIGTERM)
        assert "All stopped" in said(up)
    assert up.returncode == 0
    assert processes_of(bare_home) == []

    with starting(environment, definitions(tmp_path, TINY)) as up:
        second = run(environment, "up")
        assert second.returncode == 1
        assert f"(pid {up.pid})" in second.stderr
        down = run(environment, "down", "--json")
        assert set(answer(down)["stopped"]) >= set(NAMES[:5]), "ours begin when Dagster is there, which may be by then"
        assert "All stopped" in said(up)
    assert up.returncode == 0
    assert processes_of(bare_home) == []
    assert answer(run(environment, "down", "--json")) == {"ok": True, "stopped": []}


def location(load_status: str = "LOADED", **loaded: object) -> dict[str, object]:
    return {"loadStatus": load_status, "locationOrLoadError": loaded or {"__typename": "RepositoryLocation"}}


def asked(locations: list[dict[str, object]], *healthy: bool, since: float = 0) -> bool:
    daemons = [{"required": True, "healthy": ok, "lastHeartbeatTime": 100.0} for ok in healthy]
    state = {
        "workspaceOrError": {"locationEntries": locations},
        "instance": {
            "daemonHealth": {
                "allDaemonStatuses": [*daemons, {"required": False, "healthy": False, "lastHeartbeatTime": None}]
            }
        },
    }
    transport = httpx2.MockTransport(lambda _request: httpx2.Response(200, json={"data": state}))
    with httpx2.Client(transport=transport) as client:
        return daemon_healthy(client, 9, since)


def test_dagster_is_healthy_once_definitions_are_loaded_and_required_daemons_beat() -> None:
    assert asked([location()], True, True)
    assert not asked([location()], True, False)
    assert not asked([location("LOADING")], True)
    assert not asked([], True)
    assert asked([location()], True, since=100)
    assert not asked([location()], True, since=101), "that was the daemon before it"


def test_definitions_that_do_not_load_are_an_error_with_its_cause() -> None:
    broken = location(__typename="PythonError", message="cannot load\n", causes=[{"message": "no such asset group"}])
    with pytest.raises(DefinitionsBroken, match="cannot load\nno such asset group"):
        asked([broken], True)


def test_a_dagster_that_is_not_there_is_not_healthy() -> None:
    with httpx2.Client(trust_env=False) as client:
        assert not webserver_healthy(client, 9)
        assert not daemon_healthy(client, 9)


def test_the_dagster_instance_is_postgres_without_telemetry(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", legacy_dir=tmp_path)
    env = dagster_environment(settings, "postgresql://b3:hidden@/b3?host=%2Frun%2Fpg")
    text = (settings.home / "dagster" / "dagster.yaml").read_text()
    config = json.loads(text)
    assert config["telemetry"] == {"enabled": False}
    assert config["sensors"]["use_threads"] is True
    assert "hidden" not in text
    assert env[config["storage"]["custom"]["config"]["postgres_url"]["env"]] == storage_url(
        "postgres://b3:hidden@/b3?host=%2Frun%2Fpg"
    )
    assert env["B3_LEGACY_DIR"] == str(tmp_path)
    assert storage_url("postgresql://127.0.0.1/y").startswith("postgresql+psycopg2://")
    with pytest.raises(B3Error, match="B3_POSTGRES_DSN must look like"):
        storage_url("host=localhost dbname=b3")


@pytest.mark.parametrize(
    "arguments", [("up", "--sample", "--legacy", "."), ("up", "--legacy", "/no/such/folder"), ("up", "--nonsense")]
)
def test_wrong_usage_exits_with_2_and_starts_nothing(b3, bare_home: Path, arguments: tuple[str, ...]) -> None:
    assert b3(*arguments).exit_code == 2
    assert not bare_home.exists()


def test_status_of_a_home_without_servers_says_so_and_makes_nothing(b3, bare_home: Path) -> None:
    result = b3("status", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert set(document["services"].values()) == {"down"}
    assert document["tables"] == {}
    assert document["archive"] == {}
    assert not bare_home.exists()


def test_every_command_has_help_with_an_example(b3) -> None:
    for command in ("up", "down", "status", "doctor"):
        text = b3(command, "--help").stdout
        assert f"b3 {command}" in text
        assert "Example" in text


def by_name(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in examine(settings)}


def test_doctor_makes_nothing_and_passes_on_a_sound_machine(b3, bare_home: Path) -> None:
    result = b3("doctor", "--json")
    assert result.exit_code == 0, result.stdout
    assert not bare_home.exists()
    assert all(check["advice"] for check in json.loads(result.stdout)["checks"] if check["state"] != "ok")


def test_doctor_fails_on_what_must_be_put_right(b3, bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare_home / "secrets").mkdir(parents=True)
    (bare_home / "secrets" / "postgres").write_text("hidden")
    monkeypatch.setenv("B3_LEGACY_DIR", str(bare_home / "nowhere"))
    monkeypatch.setenv("B3_MIN_FREE_DISK_MB", str(10**12))
    result = b3("doctor", "--json")
    assert result.exit_code == 1
    failed = {check["name"]: check for check in json.loads(result.stdout)["checks"] if check["state"] == "fail"}
    assert set(failed) == {"disk", "secrets", "legacy folder"}
    assert "chmod go-rwx" in failed["secrets"]["advice"]


def test_doctor_tells_where_a_setting_comes_from_and_hides_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_PORT_BASE", "9700")
    monkeypatch.setenv("B3_POSTGRES_DSN", "postgresql://me:hidden@127.0.0.1:9/db")
    (tmp_path / "settings.toml").write_text('questdb_memory = "3g"\n')
    checks = by_name(Settings(home=tmp_path))
    assert checks["setting port_base"].found == "9700 (B3_PORT_BASE)"
    assert checks["setting questdb_memory"].found == "3g (settings.toml)"
    assert checks["setting min_free_disk_mb"].found == "1000 (default)"
    assert checks["setting postgres_dsn"].found == "set (not shown) (B3_POSTGRES_DSN)"
    assert "hidden" not in str(checks)


def test_doctor_and_status_tell_of_servers_that_were_started_again(b3, bare_home: Path) -> None:
    with hold(Settings(), shared=True) as held:
        held.restarted({"postgres": 2})
        found = by_name(Settings())["crashes"]
        assert (found.state, found.found) == ("warn", "started again: postgres 2 times")
        assert json.loads(b3("status", "--json").stdout)["restarts"]["postgres"] == 2
        assert "restarts.log" in b3("status").output.replace("\n", "")
    assert "crashes" not in by_name(Settings())


def test_doctor_says_when_the_page_does_not_answer_although_the_servers_run(bare_home: Path, b3) -> None:
    assert by_name(Settings())["page and API"].found == "not running"
    with hold(Settings(), shared=True):
        found = by_name(Settings())["page and API"]
        assert (found.state, "api.log" in found.advice) == ("fail", True)


def test_doctor_names_a_stranger_on_our_port(tmp_path: Path, port_base: int) -> None:
    with socket.create_server((HOST, port_base + 2)):
        check = by_name(Settings(home=tmp_path, port_base=port_base))[f"port {port_base + 2} (QuestDB HTTP)"]
    assert check.state == "fail"
    assert f"pid {os.getpid()}" in check.found


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, ""), (0.2, "0 s"), (59, "59 s"), (3_900, "1 h 5 min"), (240_763, "2 d 18 h"), (86_400, "1 d")],
)
def test_an_age_is_said_as_people_say_it(seconds: float | None, said: str) -> None:
    assert age(seconds) == said
