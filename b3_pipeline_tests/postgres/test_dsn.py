"""DSNs with a password in the wrong place: every command says so, and none shows a piece of it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from b3_pipeline.cli import app
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.running import home_instance
from b3_pipeline.postgres.dsn import BadDsn, checked, reason
from b3_pipeline.postgres.vault import open_vault
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import Engines

WRONG = [
    "b3:topsecret@db/x",
    "postgresql://b3:topsecret%ZZw@127.0.0.1/x",
    "postgresql://b3:p@topsecret@127.0.0.1/x",
]
MORE = [
    "postgresql://b3:topsecret/w@127.0.0.1/x",
    "postgresql://b3:12/topsecret@127.0.0.1/x",
    "postgresql://b3:p@b:topsecret@127.0.0.1/x",
    "postgresql://b3:p@[topsecret@127.0.0.1/x",
    "postgresql://b3:p@/topsecret@127.0.0.1/x",
    "postgresql://b3:top secret@127.0.0.1/x",
    "postgresql://b3@127.0.0.1/x?topsecret=1",
    "host=127.0.0.1 password=topsecret",
    "topsecret",
    "",
]


@pytest.mark.parametrize("dsn", [*WRONG, *MORE])
def test_a_dsn_that_is_not_what_was_meant_is_refused_without_a_quotation(dsn: str) -> None:
    with pytest.raises(BadDsn, match="percent-encoded") as failed:
        checked(dsn)
    assert "secret" not in str(failed.value)
    assert failed.value.__cause__ is failed.value.__context__ is None


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://b3:x@/b3?host=%2Frun%2Fa%40b%2Fpg",
        "postgres://b3:p%40ss%2Fw@db.example:5432/x?sslmode=require",
        "postgresql://b3:p#s?s@[::1]:5432/x",
        "postgresql://b3@one:5432,two:5433/x",
        "postgresql:///x",
    ],
)
def test_a_dsn_that_is_sound_is_left_as_it_is(dsn: str) -> None:
    assert checked(dsn) == dsn


def test_of_an_error_that_is_not_the_servers_only_its_name_is_shown(postgres: str) -> None:
    assert reason(psycopg.ProgrammingError('missing "=" after "topsecret"')) == "ProgrammingError"
    with psycopg.connect(postgres) as db, pytest.raises(psycopg.ProgrammingError) as failed:
        db.execute("select nothing")
    assert reason(failed.value) == 'column "nothing" does not exist'


@pytest.mark.parametrize("dsn", WRONG)
@pytest.mark.parametrize(
    ("command", "code"), [("doctor", 1), ("migrate --legacy {}", 1), ("signals import {}", 1), ("signals list", 1)]
)
def test_no_command_shows_a_password_that_is_not_escaped(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str, command: str, code: int
) -> None:
    for name in ("gamma", "telegram_channels"):
        (tmp_path / f"{name}.json").write_text("[]")
    monkeypatch.setenv("B3_POSTGRES_DSN", dsn)
    result = CliRunner().invoke(app, [*command.format(tmp_path).split(), "--json"])
    assert result.exit_code == code, result.output
    assert "percent-encoded" in result.output
    assert "topsecret" not in result.output


@pytest.mark.parametrize("dsn", WRONG)
def test_neither_the_vault_nor_dagster_is_asked_with_such_a_dsn(home: Path, db: QuestDB, dsn: str) -> None:
    for asked in (open_vault(dsn, lambda: []), home_instance(Store(), Engines(db.address, dsn))):
        with pytest.raises(BadDsn), asked:
            pass
