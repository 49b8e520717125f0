"""Secrets at rest: encrypted, found again by name, and encrypted anew with another key."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import psycopg
import pytest

from b3_pipeline.postgres.vault import Vault, VaultError, open_vault
from b3_pipeline_tests.signals.exports import empty_vault

OLD, NEW = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
SECRET = "7310000001:AAExx-a-secret-of-a-test-0123456789"


@pytest.fixture
def dsn(postgres: str) -> Iterator[str]:
    empty_vault(postgres)
    yield postgres
    empty_vault(postgres)


@pytest.fixture
def vault(dsn: str) -> Iterator[Vault]:
    with open_vault(dsn, lambda: [OLD]) as opened:
        yield opened


def stored(dsn: str) -> list[bytes]:
    with psycopg.connect(dsn) as db:
        return [bytes(secret) for (secret,) in db.execute("select secret from b3.secrets order by name")]


def test_a_secret_is_given_back_by_its_name_and_stored_encrypted(vault: Vault, dsn: str) -> None:
    vault.keep("a", SECRET)
    assert (vault.holds("a"), vault.holds("b")) == (True, False)
    assert vault.reveal("a") == SECRET
    [row] = stored(dsn)
    assert SECRET.encode() not in row


def test_what_is_kept_under_a_name_stays(vault: Vault) -> None:
    vault.keep("a", "first")
    vault.keep("a", "second")
    assert vault.reveal("a") == "first"


def test_a_random_secret_is_made_once(vault: Vault) -> None:
    assert len(made := vault.made_once("a")) == 43
    assert vault.made_once("a") == made
    assert vault.made_once("b") != made


def test_a_name_that_is_not_there_is_a_sentence(vault: Vault) -> None:
    with pytest.raises(VaultError, match="No secret is kept as nobody"):
        vault.reveal("nobody")


def test_another_key_opens_nothing_and_says_what_to_do(vault: Vault, dsn: str) -> None:
    vault.keep("a", SECRET)
    with open_vault(dsn, lambda: [NEW]) as other, pytest.raises(VaultError, match="B3_TOKEN_KEY") as failed:
        other.reveal("a")
    assert SECRET not in str(failed.value)


def test_after_a_rotation_the_new_key_alone_opens_everything(dsn: str) -> None:
    with open_vault(dsn, lambda: [OLD]) as vault:
        for name in "abc":
            vault.keep(name, SECRET + name)
    before = stored(dsn)
    with open_vault(dsn, lambda: [NEW, OLD], alone=True) as vault:
        assert vault.rotate() == 3
    assert not set(stored(dsn)) & set(before)
    with open_vault(dsn, lambda: [NEW]) as vault:
        assert [vault.reveal(name) for name in "abc"] == [SECRET + name for name in "abc"]


def test_a_rotation_that_fails_changes_nothing(dsn: str) -> None:
    with open_vault(dsn, lambda: [OLD]) as vault:
        vault.keep("b", SECRET)
    with open_vault(dsn, lambda: [NEW]) as vault:
        vault.keep("a", SECRET)
    before = stored(dsn)
    with open_vault(dsn, lambda: [NEW], alone=True) as vault, pytest.raises(VaultError):
        vault.rotate()
    assert stored(dsn) == before


def test_who_changes_keys_is_alone_and_others_read_theirs_afterwards(dsn: str) -> None:
    asked = threading.Event()

    def ask() -> None:
        with open_vault(dsn, lambda: [asked.set() or OLD]):
            pass

    with open_vault(dsn, lambda: [OLD], alone=True), psycopg.connect(dsn, autocommit=True) as db:
        other = threading.Thread(target=ask)
        other.start()
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while not (db.execute(waiting).fetchone() or (0,))[0]:
            assert other.is_alive()
        assert not asked.is_set()
    other.join(30)
    assert asked.is_set()


def test_many_that_open_a_new_vault_at_once_all_can(dsn: str) -> None:
    made: list[str] = []

    def ask() -> None:
        with open_vault(dsn, lambda: [OLD]) as vault:
            made.append(vault.made_once("a"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 8
    assert len(set(made)) == 1


def test_a_postgresql_that_is_away_is_a_sentence_without_its_password() -> None:
    with (
        pytest.raises(VaultError, match="does not answer") as failed,
        open_vault("postgresql://u:hunter2@127.0.0.1:1/x", lambda: [OLD]),
    ):
        pass
    assert "hunter2" not in str(failed.value)
