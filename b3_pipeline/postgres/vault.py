"""Secrets at rest: one encrypted row each in PostgreSQL, under a name that may be shown.

The key is not in the database: who has a dump of it, or the disk under it, has no secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected

_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.secrets "
    "(name text primary key, secret bytea not null, stored_at timestamptz not null default now())",
)
_ALONE = "select pg_advisory_lock(hashtext('b3.secrets'))"
_TOGETHER = "select pg_advisory_lock_shared(hashtext('b3.secrets'))"


class VaultError(B3Error):
    """A secret cannot be kept or opened."""


def padded(key: str) -> str:
    """A key as Fernet wants it."""
    return key.rstrip("=") + "="


class Vault:
    """The secrets of one database. The first of the keys encrypts, any of them decrypts.

    A key is 32 bytes in URL-safe base64, with or without padding.
    """

    def __init__(self, db: psycopg.Connection, keys: Sequence[str]) -> None:
        self._db = db
        self._cipher = MultiFernet([Fernet(padded(key)) for key in keys])

    def keep(self, name: str, secret: str) -> None:
        """Stores a secret under a name; what stands there already stays."""
        statement = "insert into b3.secrets (name, secret) values (%s, %s) on conflict (name) do nothing"
        self._db.execute(statement, (name, self._encrypt(secret)))

    def holds(self, name: str) -> bool:
        """Whether there is a secret of that name."""
        return self._db.execute("select 1 from b3.secrets where name = %s", (name,)).fetchone() is not None

    def reveal(self, name: str) -> str:
        """The secret of that name. Raises VaultError when there is none, or it was encrypted with another key."""
        row = self._db.execute("select secret from b3.secrets where name = %s", (name,)).fetchone()
        if row is None:
            raise VaultError(f"No secret is kept as {name}: import the file that has it.")
        return self._decrypt(row[0])

    def made_once(self, name: str) -> str:
        """The secret of that name; a random one of 43 characters, made now, when there was none."""
        self.keep(name, secrets.token_urlsafe(32))
        return self.reveal(name)

    def _encrypt(self, secret: str) -> bytes:
        return self._cipher.encrypt(secret.encode())

    def _decrypt(self, stored: bytes) -> str:
        try:
            return self._cipher.decrypt(stored).decode()
        except InvalidToken:
            raise VaultError(
                "The secrets in PostgreSQL were encrypted with another key than this home's. Give that one: in "
                "B3_TOKEN_KEY (behind a newer one, after a comma), or as secrets/token_key in the home. If it is lost, so "
                "are they: drop the table b3.secrets, and import the tokens again."
            ) from None

    def rotate(self) -> int:
        """Encrypts every secret anew with the first key, all or none; returns how many. Older keys may go afterwards."""
        with self._db.transaction():
            rows = self._db.execute("select name, secret from b3.secrets order by name for update").fetchall()
            for name, secret in rows:
                again = self._encrypt(self._decrypt(secret))
                self._db.execute("update b3.secrets set secret = %s where name = %s", (again, name))
        return len(rows)


@contextmanager
def open_vault(dsn: str, keys: Callable[[], Sequence[str]], *, alone: bool = False) -> Iterator[Vault]:
    """The vault of a database, made when there is none.

    `keys` is asked once nobody who is `alone` with the vault, in order to change keys, can take one away meanwhile.
    Raises VaultError when PostgreSQL does not answer or refuses, BadDsn when nobody can ask it.
    """
    with connected(dsn, error=VaultError, what="to keep secrets", ddl=_DDL) as db:
        db.execute(_ALONE if alone else _TOGETHER)  # until the connection ends
        yield Vault(db, keys())
