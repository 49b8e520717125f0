"""What may be said of a DSN and of PostgreSQL's errors: never a part of a password.

libpq quotes what it cannot read: of a DSN whose password is not escaped, that is the password or a piece of it.
"""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

from b3_pipeline.errors import B3Error


class BadDsn(B3Error):
    """A DSN cannot be read, or not as it was meant."""


def checked(dsn: str) -> str:
    """The same DSN, read and found to have no password in a wrong place. Raises BadDsn, which quotes nothing of it."""
    if not _is_sound(dsn):
        raise BadDsn(
            "B3_POSTGRES_DSN must look like postgresql://user:password@host:5432/database. In user and password the "
            "characters @ : / ? # % and blanks must be percent-encoded: %40 for @."
        )
    return dsn


def _is_sound(dsn: str) -> bool:
    if not dsn.startswith(("postgresql://", "postgres://")):
        return False
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    except psycopg.ProgrammingError:
        return False
    hosts = [host for host in parts.get("host", "").split(",") if not host.startswith("/")]  # "/": a socket's folder
    ports = [port for port in parts.get("port", "").split(",") if port]
    return all(port.isdecimal() for port in ports) and not any(
        "@" in text for text in (*hosts, parts.get("dbname", ""))
    )


def reason(error: psycopg.Error) -> str:
    """What may be shown of an error on a connection by a checked DSN: the server's words, or why there is no connection."""
    if isinstance(error, psycopg.OperationalError):
        return str(error)
    return error.diag.message_primary or type(error).__name__
