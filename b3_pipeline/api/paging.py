"""Pages of a table, newest first: bound conditions, keys to go on from, and cursors that name such a key.

A page goes on from the last key that was given, not from a number of rows: what is written meanwhile shifts nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import orjson
from psycopg import sql

from b3_pipeline.api.store import Store
from b3_pipeline.choosing import rank
from b3_pipeline.parsing.records import has_controls
from b3_pipeline.quality.stored import Condition, condition
from b3_pipeline.questdb.client import named

#: Every row that a feed has brought, instead of one a key.
ALL_FEEDS = "all"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_DIGEST_BYTES = 9
#: No longer than an address may be: three keys of 500 characters fit, whatever script they are of.
_LONGEST = 8 << 10

Row = dict[str, Any]


class BadCursor(ValueError):
    """A text that is no cursor, or one of another question."""


@dataclass(frozen=True)
class Position:
    """The last key of a page: its moment (naive UTC), and the further keys in the listing's order."""

    ts: datetime
    keys: tuple[str | int, ...] = ()


def to_cursor(position: Position, question: object) -> str:
    """A cursor that goes on from a position, for this question only (its route and all its filters).

    It is no secret: whoever makes one up asks what the filters let everybody ask. The digest tells a damaged one, or
    that of another question, whose page would be a wrong one.
    """
    micros = (position.ts - _EPOCH) // (datetime.resolution)
    body = orjson.dumps([micros, *position.keys])
    return base64.urlsafe_b64encode(_digest(body, question) + body).decode().rstrip("=")


def from_cursor(text: str, question: object, types: Sequence[type]) -> Position:
    """The position in a cursor whose further keys are of these types (str, int). Raises BadCursor."""
    try:
        if len(text) > _LONGEST:
            raise BadCursor
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if not hmac.compare_digest(digest, _digest(body, question)):
            raise BadCursor
        micros, *found = orjson.loads(body)
        if [type(key) for key in found] != list(types) or not all(map(_storable, found)):
            raise BadCursor
        return Position(_EPOCH + micros * datetime.resolution, tuple(found))
    except (BadCursor, ValueError, TypeError, OverflowError, binascii.Error):
        raise BadCursor("not a cursor of this question: take `next_cursor` of its last answer") from None


def _storable(key: str | int) -> bool:
    """Whether a table can have such a key."""
    return not has_controls(key) if isinstance(key, str) else -(2**63) < key < 2**63


def _digest(body: bytes, question: object) -> bytes:
    return hashlib.sha256(repr(question).encode("utf-8", "replace") + b"\0" + body).digest()[:_DIGEST_BYTES]


@dataclass(frozen=True)
class Listing:
    """A table or view that is given in pages: the columns that are asked for, and what tells its rows of one moment apart.

    `keys` are the key columns beside the time and the feed, texts but for those in `numbers`; `feeds` is how many feeds may have a row of one key (0: it
    has no feeds).
    """

    name: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    feeds: int = 0
    ts: str = "ts"
    numbers: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """By what rows of one moment are ordered."""
        return (*self.keys, "feed") if self.feeds else self.keys

    def types(self, one_a_key: bool) -> list[type]:
        """The types of the keys in its positions."""
        return [int if key in self.numbers else str for key in (self.keys if one_a_key else self.order)]


@dataclass(frozen=True)
class Found:
    """The rows of a page, and the position of the last where there is more."""

    rows: list[Row]
    last: Position | None


async def page(
    store: Store, listing: Listing, where: Condition, limit: int, after: Position | None, one_a_key: bool
) -> Found:
    """The newest `limit` rows under a condition, after a position. Raises StoreAway.

    `one_a_key`: of the rows that several feeds have of one key only that of the feed that takes precedence.
    """
    one_a_key = one_a_key and listing.feeds > 0
    wanted = (limit + 1) * max(1, listing.feeds if one_a_key else 1)
    asked = where & older(listing, after) if after else where
    keys = (listing.ts, *(listing.keys if one_a_key else listing.order))
    while True:
        rows = await newest(store, listing, asked, wanted)
        chosen = list(_first_feeds(rows, keys)) if one_a_key else rows
        if len(chosen) > limit:
            last = chosen[limit - 1]
            return Found(chosen[:limit], Position(last[listing.ts], tuple(last[key] for key in keys[1:])))
        if len(rows) < wanted:
            return Found(chosen, None)
        wanted *= 2  # there are more feeds than are known


async def newest(store: Store, listing: Listing, where: Condition, most: int) -> list[Row]:
    """The newest rows under a condition, in the listing's order. Raises StoreAway."""
    query = named("select {columns} from {t} where ", columns=listing.columns, t=listing.name) + where.text
    query += named(" order by {ts} desc", ts=listing.ts)
    for key in listing.order:
        query += named(", {key}", key=key)
    return await store.rows(query + sql.SQL(" limit %s"), *where.values, most)


def older(listing: Listing, after: Position) -> Condition:
    """What comes after a position: newest first, then by the listing's keys, ascending."""
    before = condition("{ts} < %s", after.ts, ts=listing.ts)
    beside = _greater(list(zip(listing.order, after.keys, strict=False)))
    if beside is None:
        return before
    # the plain bound lets the server leave out partitions
    at_most = condition("{ts} <= %s", after.ts, ts=listing.ts)
    return at_most & (before | (condition("{ts} = %s", after.ts, ts=listing.ts) & beside))


def _greater(pairs: Sequence[tuple[str, str | int]]) -> Condition | None:
    if not pairs:
        return None
    (name, value), *rest = pairs
    greater = condition("{c} > %s", value, c=name)
    deeper = _greater(rest)
    return greater if deeper is None else greater | (condition("{c} = %s", value, c=name) & deeper)


def _first_feeds(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[Row]:
    """Of rows that are ordered by key, one a key: that of the feed that takes precedence."""
    for _key, same in groupby(rows, key=itemgetter(*keys)):
        yield min(same, key=lambda row: rank(row["feed"]))
