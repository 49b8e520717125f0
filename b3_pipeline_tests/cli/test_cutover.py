"""The commands of the cutover, as a person or a script calls them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline import services
from b3_pipeline.cutover import link
from b3_pipeline.failpoints import VARIABLE
from b3_pipeline.processes import ServerDied
from b3_pipeline.services import Engines, known_engines
from b3_pipeline.settings import Settings
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.cutover.conftest import Office, bank, empty_office, office  # noqa: F401 (fixtures)
from b3_pipeline_tests.cutover.ideas import Bank
from b3_pipeline_tests.cutover.test_advance import mismatch
from b3_pipeline_tests.cutover.test_rollback import live
from b3_pipeline_tests.test_docs import REPO, shown_commands

AWAY = "http://127.0.0.1:1"


def test_a_refused_step_exits_with_1_and_names_the_red_gates(office: Office) -> None:  # noqa: F811
    office.phase("shadow")
    mismatch(office)
    refused = answer("cutover", "advance", code=1)
    assert (refused["phase"], refused["moved"]) == ("shadow", False)
    assert [gate["name"] for gate in refused["gates"] if not gate["ok"]] == ["mismatches"]
    assert all(set(gate) >= {"name", "ok", "evidence"} for gate in refused["gates"])
    said = b3("cutover", "advance", "--dry-run", code=1)
    assert "mismatches" in said.stdout
    assert "be refused" in said.stderr
    assert answer("cutover", "status")["phase"] == "shadow"


def test_forward_and_back_with_one_command_each(office: Office) -> None:  # noqa: F811
    assert answer("cutover", "advance", "--dry-run")["phase"] == "legacy"
    moved = answer("cutover", "advance", "--why", "agreed", "--who", "ana")
    assert (moved["ok"], moved["phase"], len(moved["gates"])) == (True, "shadow", 5)
    status = answer("cutover", "status")
    assert (status["phase"], status["next"], status["who"], status["why"]) == ("shadow", "active", "ana", "agreed")
    assert {gate["name"] for gate in status["gates"] if not gate["ok"]} == {"comparisons"}  # it has begun just now
    assert [part["name"] for part in status["parts"]] == ["collectors", "json_server", "dashboard", "proxies"]
    answer("cutover", "advance", "--override", "--why", "a test")
    live(office)
    planned = answer("cutover", "rollback", "--dry-run")
    assert (planned["phase"], planned["stays"].keys() >= {"ajustes_b3.csv"}) == ("active", True)
    shown = b3("cutover", "rollback", "--collectors-stopped")
    assert "rows stay in the tables only: contracts beyond the front one" in " ".join(shown.stderr.split())
    assert "Parity of the legacy files" in shown.stdout
    assert answer("cutover", "rollback")["was"] == "legacy"
    assert "nothing to go back from" in b3("cutover", "rollback").stderr
    assert link.current(office.home) == office.legacy
    assert "The old stack" in b3("cutover", "status").stdout


def test_readers_go_back_although_questdb_does_not_start(
    office: Office,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office.phase("active")
    link.follow(office.settings, "active")
    given: list[bool] = []

    @contextmanager
    def engines(settings: Settings, _report: object) -> Iterator[Engines]:
        given.append(settings.questdb_url == office.settings.questdb_url)
        if given[-1]:
            raise ServerDied("QuestDB does not start.")
        yield known_engines(settings)

    away = replace(office.db.address, http_url=AWAY, pg_host="127.0.0.1", pg_port=1)
    monkeypatch.setattr(services, "engines", engines)
    monkeypatch.setattr(services, "known_engines", lambda _settings: Engines(away, office.dsn))
    said = " ".join(b3("cutover", "rollback", code=1).stderr.split())
    assert "It goes on without QuestDB" in said
    assert "Readers are back with the legacy side" in said
    assert given == [True, False]
    assert office.now() == "legacy"
    assert link.current(office.home) == office.legacy
    assert "QuestDB does not start" in b3("cutover", "status", code=1).stderr  # for it there is nothing to look at


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["advance", "--override"], "--why"),
        (["rollback", "--domain", "stocks"], "is none"),
    ],
)
def test_wrong_usage_is_said(empty_office: Office, arguments: list[str], said: str) -> None:  # noqa: F811
    assert said in " ".join(b3("cutover", *arguments, code=2).stderr.split())


@pytest.mark.parametrize("command", ["status", "advance", "rollback"])
def test_help_has_an_example(command: str) -> None:
    text = b3("cutover", command, "--help").stdout
    assert "Example" in text
    assert f"b3 cutover {command}" in text


def runbook() -> list[list[str]]:
    """The commands of the runbook, in its order, that move the phase or show what would."""
    text = (REPO / "docs" / "runbook.md").read_text("utf-8")
    return [words for words in shown_commands(text) if words[0] in ("cutover", "validate", "flags")]


def test_the_runbooks_commands_make_a_cutover_and_the_way_back(office: Office) -> None:  # noqa: F811
    """In its order; what its waiting brings is put in place between."""
    phases = []
    for words in runbook():
        given = [str(office.legacy) if word == "/srv/b3/data" else word for word in words]
        moves = words[:2] == ["cutover", "advance"]
        if moves or "--dry-run" in words:
            now = office.now()
            office.phase(now)  # a full session has passed in it
        (office.legacy / "gamma.json").touch()  # its collectors run
        done = _run([*given, "--json"])
        if words[:2] == ["cutover", "rollback"] and "--dry-run" not in words and "--collectors-stopped" not in words:
            assert done["code"] == 1
            assert office.now() == "legacy"
            continue
        assert done["code"] == 0, (words, done)
        if moves and "--dry-run" not in words:
            phases.append(done["phase"])
            if done["phase"] == "active":
                live(office)
        if "rollback" in words and "--collectors-stopped" in words:
            assert done["parity"]
            office.phase("active")  # the desk has gone forward again since
    assert phases == ["shadow", "active", "frozen"]


def _run(words: list[str]) -> dict[str, Any]:
    from typer.testing import CliRunner

    from b3_pipeline.cli import app

    result = CliRunner().invoke(app, words)
    found = json.loads(result.stdout)
    return {**(found if isinstance(found, dict) else {"list": found}), "code": result.exit_code}


def test_a_killed_step_shows_in_the_status_and_says_what_to_do(office: Office) -> None:  # noqa: F811
    import os
    import sys

    office.phase("shadow")
    env = {**os.environ, VARIABLE: "advance: phase set"}
    command = [sys.executable, "-m", "b3_pipeline", "cutover", "advance", "--override", "--why", "x"]
    subprocess.run(command, env=env, capture_output=True, check=False, timeout=120)
    status = answer("cutover", "status")
    assert (status["phase"], status["under_way"]["to"]) == ("active", "active")
    assert "b3 cutover advance" in b3("cutover", "status").stderr
    assert answer("cutover", "advance")["phase"] == "active"
    assert answer("cutover", "status")["under_way"] is None
    assert Path(link.current(office.home) or "") == office.home / "shadow"


def test_the_ideas_go_forward_and_back_by_the_same_commands(bank: Bank) -> None:  # noqa: F811
    status = answer("cutover", "status", "--domain", "ideas")
    assert (status["phase"], status["next"]) == ("legacy", "shadow")
    assert [part["name"] for part in status["parts"]] == ["lowdb"]
    moved = answer("cutover", "advance", "--domain", "ideas", "--why", "agreed")
    assert (moved["ok"], moved["phase"]) == (True, "shadow")
    answer("cutover", "advance", "--domain", "ideas", "--override", "--why", "a test")
    shown = b3("cutover", "rollback", "--domain", "ideas", "--dry-run")
    assert "the history of the ideas" in " ".join(shown.stderr.split())
    back = answer("cutover", "rollback", "--domain", "ideas")
    assert (back["was"], back["phase"], back["parity"]["ideas"]["missing"]) == ("active", "legacy", 0)
    assert answer("cutover", "status")["phase"] == "legacy"
