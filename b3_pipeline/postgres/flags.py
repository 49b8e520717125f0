"""Flags and phases: what may be set while everything runs, its history in PostgreSQL, and the last known state on disk.

The history only ever grows; what was set last stands. Whoever reads asks again after a second and goes on with the last
known state while PostgreSQL is away: no reader fails for a flag.
"""

from __future__ import annotations

import getpass
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.parsing.records import has_controls
from b3_pipeline.postgres.connections import connected
from b3_pipeline.postgres.dsn import checked

DOMAINS = ("market", "ideas")
MARKET, IDEAS = DOMAINS
FILE = "flags.json"
#: A reader asks no more often than this.
AGE_S = 1.0
LONGEST_TEXT = 500

_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.flags (id bigint generated always as identity primary key, at timestamptz not null, "
    "domain text not null, name text not null, value text not null, who text not null, why text not null)",
)


@dataclass(frozen=True)
class Flag:
    """A flag: what it may be, what it is before anybody has set it, and what it does."""

    name: str
    values: tuple[str, ...]
    default: str
    description: str


PHASE = Flag(
    "phase",
    ("legacy", "shadow", "active", "frozen"),
    "legacy",
    "Who is in charge: the legacy collectors, both beside one another, this pipeline, or this pipeline alone",
)
SHADOW_FILES = Flag(
    "shadow_files", ("off", "on"), "off", "Whether loads also go to the legacy files in the shadow folder"
)
#: Every flag by name; each stands in every domain for itself.
FLAGS: dict[str, Flag] = {flag.name: flag for flag in (PHASE, SHADOW_FILES)}


class UnknownFlag(UsageError):
    """A flag, value or domain that there is not, or a reason that is none."""


class FlagsError(B3Error):
    """PostgreSQL cannot say or keep what is set."""


_connected = partial(connected, error=FlagsError, what="a flag", connect_timeout_s=2, statement_timeout_ms=2_000)


@dataclass(frozen=True)
class Entry:
    """What somebody set, and when (aware UTC), who and why. Of a flag that nobody has set these are None."""

    domain: str
    name: str
    value: str
    since: datetime | None = None
    who: str | None = None
    why: str | None = None


DEFAULTS: dict[tuple[str, str], Entry] = {
    (domain, flag.name): Entry(domain, flag.name, flag.default) for domain in DOMAINS for flag in FLAGS.values()
}


@dataclass(frozen=True)
class Current:
    """What stands, by domain and name: an entry for every flag. `stale`: it is the last known, PostgreSQL is away."""

    entries: Mapping[tuple[str, str], Entry]
    stale: bool = False

    def value(self, name: str, domain: str = MARKET) -> str:
        """The value of a flag."""
        return self.entries[domain, name].value

    def phase(self, domain: str = MARKET) -> str:
        """The phase of a domain: legacy, shadow, active or frozen."""
        return self.value(PHASE.name, domain)

    def is_on(self, name: str, domain: str = MARKET) -> bool:
        """Whether a flag that is on or off is on."""
        return self.value(name, domain) == "on"


class Flags:
    """The flags as a process of this home reads them; for several threads at once.

    `dsn` None: there is no PostgreSQL now, and the last known state is all there is. Raises BadDsn.
    """

    def __init__(self, home: Path, dsn: str | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._file = home / FILE
        self._dsn = None if dsn is None else checked(dsn)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: Current | None = None
        self._asked: float | None = None

    def current(self) -> Current:
        """What stands now, or stood a second ago. Never fails: without PostgreSQL it is the last known state."""
        with self._lock:
            if self._known is None or self._asked is None or self._monotonic() - self._asked >= AGE_S:
                self._known = self._ask()
                self._asked = self._monotonic()  # after the answer, which may have taken its time-out
            return self._known

    def _ask(self) -> Current:
        try:
            if self._dsn is None:
                raise FlagsError("no PostgreSQL")
            standing = Current(_standing(self._dsn))
        except (FlagsError, psycopg.Error):
            last = self._known.entries if self._known else self._kept()
            return Current(last or DEFAULTS, stale=True)
        self._keep(standing)
        return standing

    def _keep(self, standing: Current) -> None:
        """On disk, for a process that starts while PostgreSQL is away. A disk that is full stops no reader."""
        text = json.dumps([_plain(entry) for entry in standing.entries.values()], indent=1)
        try:
            if not self._file.exists() or self._file.read_text("utf-8") != text:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(self._file, text)
        except (OSError, UnicodeDecodeError):
            return

    def _kept(self) -> Mapping[tuple[str, str], Entry] | None:
        try:
            return _complete([_entry(**given) for given in json.loads(self._file.read_text("utf-8"))])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def set_flag(dsn: str, name: str, value: str, *, why: str, at: datetime, who: str = "", domain: str = MARKET) -> Entry:
    """Sets a flag from now on, whatever it was; who is the user of this process unless given. `at`: aware UTC.

    Raises UnknownFlag for what cannot be set, FlagsError when PostgreSQL does not keep it.
    """
    entry = Entry(domain, name, value, at, who.strip() or user(), why.strip())
    require(entry)
    with _connected(dsn, ddl=_DDL) as db:
        insert = "insert into b3.flags (at, domain, name, value, who, why) values (%s, %s, %s, %s, %s, %s)"
        db.execute(insert, (entry.since, domain, name, value, entry.who, entry.why))
    return entry


def require(entry: Entry) -> None:
    """Raises UnknownFlag, with what is allowed, for what cannot be set."""
    if entry.domain not in DOMAINS:
        raise UnknownFlag(f"There is no domain {entry.domain!r}: {' or '.join(DOMAINS)}.")
    if entry.name not in FLAGS:
        raise UnknownFlag(f"There is no flag {entry.name!r}: {' or '.join(FLAGS)}.")
    flag = FLAGS[entry.name]
    if entry.value not in flag.values:
        raise UnknownFlag(f"{flag.name} cannot be {entry.value!r}: {', '.join(flag.values)}.")
    if not entry.why:
        raise UnknownFlag('Say why, for those who read the history: --why "…".')
    for text in (entry.why, entry.who or ""):
        if len(text) > LONGEST_TEXT or has_controls(text):
            raise UnknownFlag(f"Who and why are one line each, of at most {LONGEST_TEXT} characters.")


def history(dsn: str, limit: int = 100, domain: str | None = None, name: str | None = None) -> list[Entry]:
    """What was ever set (of one domain, of one flag), newest first. Raises FlagsError when PostgreSQL does not answer."""
    query = (
        "select domain, name, value, at, who, why from b3.flags where domain = coalesce(%s, domain) "
        "and name = coalesce(%s, name) order by id desc limit %s"
    )
    with _connected(dsn) as db:
        return [Entry(*row) for row in _rows(db, query, domain, name, limit)]


def user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container, where the user has a number only
        return f"uid {os.getuid()}"


def _standing(dsn: str) -> Mapping[tuple[str, str], Entry]:
    query = "select distinct on (domain, name) domain, name, value, at, who, why from b3.flags order by domain, name, id desc"
    with _connected(dsn) as db:
        return _complete([Entry(*row) for row in _rows(db, query)])


def _complete(set_by_somebody: list[Entry]) -> Mapping[tuple[str, str], Entry]:
    """An entry for every flag. What this release does not know, another one has set: it does not count here."""
    known = [e for e in set_by_somebody if (e.domain, e.name) in DEFAULTS and e.value in FLAGS[e.name].values]
    return DEFAULTS | {(entry.domain, entry.name): entry for entry in known}


def _rows(db: psycopg.Connection, query: LiteralString, *values: object) -> list[Any]:
    """The rows of a query; none where nobody has set anything yet, and so made the table.

    It is asked for: a query that fails each second would fill PostgreSQL's log.
    """
    there = db.execute("select to_regclass('b3.flags')").fetchone()
    return db.execute(query, values).fetchall() if there and there[0] else []


def _plain(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {"since": entry.since and entry.since.isoformat()}


def _entry(domain: str, name: str, value: str, since: str | None, who: str | None, why: str | None) -> Entry:
    return Entry(domain, name, value, None if since is None else datetime.fromisoformat(since), who, why)
