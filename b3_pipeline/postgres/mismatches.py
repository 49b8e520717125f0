"""Where the legacy contract's two sides answered differently, kept in PostgreSQL with both bodies until somebody looks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.parsing.records import has_controls
from b3_pipeline.postgres.connections import connected
from b3_pipeline.postgres.flags import MARKET

#: Of a body that is longer only the beginning is kept; a capture has 2 KB.
BODY_BYTES = 256 << 10
#: Differences that are kept of one mismatch: the first ones say enough.
DIFFERENCES = 50
#: Mismatches that are kept; of more, those go first that somebody has seen or a rule explains, then the oldest.
KEPT = 1_000
LONGEST_TEXT = 500

_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.payload_mismatches (id bigint generated always as identity primary key, "
    "at timestamptz not null, last_at timestamptz not null, count bigint not null default 1, endpoint text not null, "
    "legacy_key text not null, our_key text not null, legacy_body bytea not null, our_body bytea, "
    "differences jsonb not null, ignored_by text[] not null default '{}', "
    "seen_at timestamptz, seen_by text, seen_why text, unique (endpoint, legacy_key, our_key))",
)


class MismatchesError(B3Error):
    """PostgreSQL cannot keep or give mismatches."""


_connected = partial(
    connected, error=MismatchesError, what="a mismatch", ddl=_DDL, connect_timeout_s=3, statement_timeout_ms=5_000
)


class NotSeen(UsageError):
    """What cannot be marked as seen: it is not said who saw it and why it may stand."""


class NoMismatch(NotSeen):
    """There is no such mismatch, or no longer."""


@dataclass(frozen=True)
class Found:
    """A mismatch as it was found at a moment (aware UTC). `differences`: each with `pointer`, `legacy`, `ours`.

    `ours` None: we had no such document. `ignored_by`: the rules that explain all of it. `kind` tells mismatches apart
    where bodies do not (their times and sizes change from one answer to the next); None: the bodies do.
    """

    at: datetime
    endpoint: str
    legacy: bytes
    ours: bytes | None
    differences: Sequence[Mapping[str, Any]]
    ignored_by: Sequence[str] = ()
    kind: str | None = None


@dataclass(frozen=True)
class Mismatch:
    """A mismatch as it is kept: first found `at`, `count` times until `last_at` (aware UTC)."""

    id: int
    at: datetime
    last_at: datetime
    count: int
    endpoint: str
    legacy: bytes
    ours: bytes | None
    differences: list[dict[str, Any]]
    ignored_by: list[str]
    seen_at: datetime | None
    seen_by: str | None
    seen_why: str | None

    @property
    def open(self) -> bool:
        """Whether nobody has looked at it, and no rule explains it."""
        return self.seen_at is None and not self.ignored_by


def record(dsn: str, found: Found) -> bool:
    """Keeps a mismatch; False when the same was there: it is counted once more. Raises MismatchesError."""
    insert: LiteralString = (
        "insert into b3.payload_mismatches as kept "
        "(at, last_at, endpoint, legacy_key, our_key, legacy_body, our_body, differences, ignored_by) "
        "values (%(at)s, %(at)s, %(endpoint)s, %(legacy_key)s, %(our_key)s, %(legacy)s, %(ours)s, %(differences)s, "
        "%(ignored_by)s) on conflict (endpoint, legacy_key, our_key) do update set count = kept.count + 1, "
        "last_at = greatest(kept.last_at, excluded.last_at), ignored_by = excluded.ignored_by returning count"
    )
    beyond: LiteralString = (
        "delete from b3.payload_mismatches where id in (select id from b3.payload_mismatches "
        "order by (seen_at is null and ignored_by = '{}') desc, last_at desc, id desc offset %s)"
    )
    values = {
        "at": found.at,
        "endpoint": found.endpoint,
        "legacy_key": found.kind or hashlib.sha256(found.legacy).hexdigest(),
        "our_key": "" if found.kind or found.ours is None else hashlib.sha256(found.ours).hexdigest(),
        "legacy": found.legacy[:BODY_BYTES],
        "ours": None if found.ours is None else found.ours[:BODY_BYTES],
        "differences": Jsonb([_kept(dict(each)) for each in found.differences[:DIFFERENCES]]),
        "ignored_by": list(found.ignored_by),
    }
    with _connected(dsn) as db, db.transaction():
        row = db.execute(insert, values).fetchone()
        new = row is not None and row[0] == 1
        if new:
            db.execute(beyond, (KEPT,))
        return new


def latest(dsn: str, limit: int = 50) -> list[Mismatch]:
    """The mismatches that were met last, newest first. Raises MismatchesError."""
    return _listed(dsn, "order by last_at desc, id desc limit %s", limit)


def foremost(dsn: str, limit: int = 50) -> list[Mismatch]:
    """The mismatches that are open, and then the others, of both the newest first. Raises MismatchesError."""
    return _listed(dsn, "order by (seen_at is null and ignored_by = '{}') desc, last_at desc, id desc limit %s", limit)


def _listed(dsn: str, order: LiteralString, limit: int) -> list[Mismatch]:
    query: LiteralString = (
        "select id, at, last_at, count, endpoint, legacy_body legacy, our_body ours, differences, ignored_by, "
        "seen_at, seen_by, seen_why from b3.payload_mismatches "
    )
    with _connected(dsn) as db, db.cursor(row_factory=class_row(Mismatch)) as cursor:
        return cursor.execute(query + order, (limit,)).fetchall()


def open_count(dsn: str, domain: str | None = None) -> int:
    """How many mismatches (of a domain) nobody has looked at, those that a rule explains left out. Raises MismatchesError."""
    return counted(dsn, domain)[0]


def counted(dsn: str, domain: str | None = None) -> tuple[int, int]:
    """How many mismatches (of a domain) are open, and how many are kept in all. Raises MismatchesError.

    Those of the market data are of a legacy route by its bare name; all others are of a route of `/api/`.
    """
    query: LiteralString = (
        "select count(*) filter (where seen_at is null and ignored_by = '{}'), count(*) from b3.payload_mismatches "
        "where %(domain)s::text is null or starts_with(endpoint, '/api/') = (%(domain)s <> %(market)s)"
    )
    with _connected(dsn) as db:
        [(open_, all_)] = db.execute(query, {"domain": domain, "market": MARKET}).fetchall()
        return open_, all_


def mark_seen(dsn: str, mismatch: int, who: str, why: str, at: datetime | None = None) -> None:
    """Notes (at: aware UTC) that somebody has looked at a mismatch, and why it may stand.

    Who marked it first stays. Raises NotSeen for what cannot be marked, MismatchesError when PostgreSQL does not keep it.
    """
    who, why = who.strip(), why.strip()
    if not who or not why:
        raise NotSeen("Say who has seen the mismatch, and why it may stand.")
    if any(len(text) > LONGEST_TEXT or has_controls(text) for text in (who, why)):
        raise NotSeen(f"Who and why are one line each, of at most {LONGEST_TEXT} characters.")
    update: LiteralString = (
        "update b3.payload_mismatches set seen_at = coalesce(seen_at, %s), seen_by = coalesce(seen_by, %s), "
        "seen_why = coalesce(seen_why, %s) where id = %s"
    )
    with _connected(dsn) as db:
        if not 0 < mismatch < 1 << 63 or not db.execute(update, (at or datetime.now(UTC), who, why, mismatch)).rowcount:
            raise NoMismatch(f"There is no mismatch {mismatch}.")


def _kept(value: Any) -> Any:
    """A value as PostgreSQL takes it: without null characters and halves of characters."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_kept(name): _kept(member) for name, member in value.items()}
    return [_kept(member) for member in value] if isinstance(value, list) else value
