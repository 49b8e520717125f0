"""What a DSN may be, and what may be said of it and of PostgreSQL's errors: never a part of a password.

libpq quotes what it cannot read: of a DSN whose password is not escaped, that is the password or a piece of it. And it
takes a connection without TLS when nobody asks for one: so a DSN that leads to another machine has to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from itertools import zip_longest

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from b3_pipeline.errors import B3Error

#: The setting with the DSN for everything, unless another one is named.
MAIN = "B3_POSTGRES_DSN"
#: The values of `sslmode` with which nothing ever goes over a network as it is.
ENCRYPTED = ("require", "verify-ca", "verify-full")


class BadDsn(B3Error):
    """A DSN cannot be read, or not as it was meant, or leads to another machine without TLS."""


def checked(dsn: str, setting: str = MAIN) -> str:
    """The same DSN, found to have no password in a wrong place, and to ask for TLS unless its server is this machine's.

    Raises BadDsn, which names the `setting` (or option, or file) that has the DSN, and quotes nothing of it.
    """
    parts = parts_of(dsn, setting)
    if parts.get("sslmode") not in ENCRYPTED and not _stays_here(parts):
        raise BadDsn(
            f"{setting} is a DSN of PostgreSQL on another machine, and so must ask for TLS. Write at its end "
            "?sslmode=verify-full&sslrootcert=FILE (& instead of ? behind other options), FILE being the certificate of "
            "who has signed the server's. sslmode=verify-ca does not look at the server's name, and sslmode=require not "
            "at who has signed: docs/postgres.md."
        )
    return dsn


def parts_of(dsn: str, setting: str = MAIN) -> dict[str, str]:
    """What a DSN says, by libpq's keyword. Raises BadDsn for one that is not what was meant, as `checked` does."""
    parts = _read(dsn)
    if parts is None:
        raise BadDsn(
            f"{setting} must look like postgresql://user:password@host:5432/database. In user and password the "
            "characters @ : / ? # % and blanks must be percent-encoded: %40 for @."
        )
    return parts


def _read(dsn: str) -> dict[str, str] | None:
    if not dsn.startswith(("postgresql://", "postgres://")):
        return None
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    except psycopg.ProgrammingError:
        return None
    hosts = [host for host in parts.get("host", "").split(",") if not host.startswith("/")]  # "/": a socket's folder
    ports = [port for port in parts.get("port", "").split(",") if port]
    misplaced = any("@" in text for text in (*hosts, parts.get("dbname", "")))
    return parts if all(port.isdecimal() for port in ports) and not misplaced else None


def _stays_here(parts: Mapping[str, str]) -> bool:
    """Whether every server of a DSN is on this machine. What a DSN leaves open, libpq takes from the environment."""
    if parts.get("service"):  # a file says where it is: it may be anywhere
        return False
    open_ = {option.keyword.decode(): (option.val or b"").decode() for option in Conninfo.get_defaults()}
    hosts, addresses = (str(parts.get(name) or open_.get(name, "")).split(",") for name in ("host", "hostaddr"))
    # an address goes before the name beside it, which is then only what the certificate must say
    return all(_is_here(address or host) for host, address in zip_longest(hosts, addresses, fillvalue=""))


def _is_here(host: str) -> bool:
    if not host or host.startswith("/") or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def reason(error: psycopg.Error) -> str:
    """What may be shown of an error on a connection by a checked DSN: the server's words, or why there is no connection."""
    if isinstance(error, psycopg.OperationalError):
        return str(error)
    return error.diag.message_primary or type(error).__name__
