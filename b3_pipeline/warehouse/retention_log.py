"""What people and runs of retention have decided and done, kept in PostgreSQL: rules, holds, what was taken away.

A partition is entered before it is dropped (the intent) and again afterwards; from the intent on, its time counts as taken
away, so that nobody misses it or writes into it. The last known state is on disk, for when PostgreSQL is away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from b3_pipeline.credentials import write_private
from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected
from b3_pipeline.sessions import Window

#: The last known state, in the home.
FILE = "retention.json"
_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.retention_rules (id bigint generated always as identity primary key, "
    "at timestamptz not null, table_name text not null, enabled boolean not null, who text not null, why text not null)",
    "create table if not exists b3.retention_holds (id bigint generated always as identity primary key, "
    "table_name text not null, start_at timestamptz, end_at timestamptz, who text not null, why text not null, "
    "at timestamptz not null, released_at timestamptz, released_by text, released_why text)",
    "create table if not exists b3.retention_log (id bigint generated always as identity primary key, "
    "table_name text not null, partition text not null, start_at timestamptz not null, end_at timestamptz not null, "
    "rows bigint not null, checksum text not null, loads jsonb not null, days int not null, who text not null, "
    "intended_at timestamptz not null, dropped_at timestamptz, abandoned_at timestamptz, restored_at timestamptz, "
    "restored_by text, restored_why text)",
    "create unique index if not exists retention_log_standing on b3.retention_log (table_name, partition) "
    "where abandoned_at is null and restored_at is null",
)
_STANDING: LiteralString = (
    "select * from b3.retention_log where abandoned_at is null and restored_at is null order by table_name, start_at"
)
_HOLDS: LiteralString = "select id, table_name, start_at, end_at, who, why, at from b3.retention_holds where released_at is null order by id"
_RUNNING = "hashtext('b3.retention: run')"


class RetentionError(B3Error):
    """Retention cannot do what it was asked for."""


class Held(RetentionError):
    """Somebody wants the rows to stay."""


@dataclass(frozen=True)
class Rule:
    """Whether a table's retention is on, since when (aware UTC), by whom and why. None: as `tables.py` says."""

    table_name: str
    enabled: bool
    at: datetime | None = None
    who: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class Hold:
    """Rows of a table that stay whatever their age: from `start_at` to `end_at`, aware UTC (None: without an end)."""

    id: int
    table_name: str
    start_at: datetime | None
    end_at: datetime | None
    who: str
    why: str
    at: datetime

    @property
    def window(self) -> Window:
        return Window(_naive(self.start_at), _naive(self.end_at))

    def covers(self, window: Window) -> bool:
        """Whether it holds anything of a window."""
        return overlap(self.window, window)


@dataclass(frozen=True)
class Entry:
    """A partition that a retention took away, or was about to: `rows` of it with that checksum; moments aware UTC.

    `loads` has how many rows of each load there were, by its id as text; `days` was the table's limit.
    """

    id: int
    table_name: str
    partition: str
    start_at: datetime
    end_at: datetime
    rows: int
    checksum: str
    loads: dict[str, int]
    days: int
    who: str
    intended_at: datetime
    dropped_at: datetime | None
    abandoned_at: datetime | None
    restored_at: datetime | None
    restored_by: str | None
    restored_why: str | None

    @property
    def window(self) -> Window:
        return Window(_naive(self.start_at), _naive(self.end_at))

    @property
    def state(self) -> str:
        """intended, dropped, abandoned (never dropped) or restored."""
        if self.abandoned_at or self.restored_at:
            return "abandoned" if self.abandoned_at else "restored"
        return "dropped" if self.dropped_at else "intended"


def overlap(one: Window, other: Window) -> bool:
    """Whether two windows have a moment in common."""
    (start, end), (other_start, other_end) = one.bounds(), other.bounds()
    return start < other_end and other_start < end


def _naive(moment: datetime | None) -> datetime | None:
    return moment and moment.astimezone(UTC).replace(tzinfo=None)


def _aware(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(tzinfo=UTC)


class RetentionLog:
    """The rules, holds and log of one database. Nothing is ever deleted from them."""

    def __init__(self, db: psycopg.Connection) -> None:
        self._db = db

    def rules(self) -> dict[str, Rule]:
        """What somebody has set, by table."""
        query = "select distinct on (table_name) table_name, enabled, at, who, why from b3.retention_rules order by table_name, id desc"
        return {rule.table_name: rule for rule in self._all(Rule, query)}

    def set_rule(self, rule: Rule) -> None:
        """Switches a table's retention on or off from now on."""
        self._db.execute(
            "insert into b3.retention_rules (at, table_name, enabled, who, why) values (%s, %s, %s, %s, %s)",
            (rule.at, rule.table_name, rule.enabled, rule.who, rule.why),
        )

    def holds(self) -> list[Hold]:
        """The holds that stand, oldest first."""
        return self._all(Hold, _HOLDS)

    def hold(self, table: str, window: Window, who: str, why: str, at: datetime) -> Hold:
        """Puts a hold on a window; one of the same table, window and reason that stands is given instead."""
        with self._alone_with_holds():
            for hold in self.holds():
                if (hold.table_name, hold.window, hold.why) == (table, window, why):
                    return hold
            self._db.execute(
                "insert into b3.retention_holds (table_name, start_at, end_at, who, why, at) "
                "values (%s, %s, %s, %s, %s, %s)",
                (table, _aware(window.start), _aware(window.end), who, why, at),
            )
            return self.holds()[-1]

    def release(self, hold_id: int, who: str, why: str, at: datetime) -> bool:
        """Takes a hold off; False when none of this number stands."""
        done = self._db.execute(
            "update b3.retention_holds set released_at = %s, released_by = %s, released_why = %s "
            "where id = %s and released_at is null",
            (at, who, why, hold_id),
        )
        return done.rowcount > 0

    def intend(self, table: str, partition: str, window: Window, rows: int, checksum: str, **more: Any) -> Entry:
        """Enters a partition that is going to be dropped now. `more`: loads, days, who, at.

        Raises Held when somebody has put a hold on it meanwhile.
        """
        with self._alone_with_holds():
            if held := [h for h in self.holds() if h.table_name == table and h.covers(window)]:
                raise Held(f"Hold {held[0].id} covers it: {held[0].why}")
            values = (table, partition, _aware(window.start), _aware(window.end), rows, checksum)
            self._db.execute(
                "insert into b3.retention_log (table_name, partition, start_at, end_at, rows, checksum, loads, days, who, "
                "intended_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (*values, Jsonb(more["loads"]), more["days"], more["who"], more["at"]),
            )
            [entry] = [e for e in self.standing() if (e.table_name, e.partition) == (table, partition)]
            return entry

    def dropped(self, entry: Entry, at: datetime) -> None:
        """The partition of an entry is gone."""
        self._db.execute("update b3.retention_log set dropped_at = %s where id = %s", (at, entry.id))

    def abandoned(self, entry: Entry, at: datetime) -> None:
        """The partition of an entry was not dropped after all."""
        self._db.execute("update b3.retention_log set abandoned_at = %s where id = %s", (at, entry.id))

    def restored(self, entry: Entry, who: str, why: str, at: datetime) -> None:
        """The partition of an entry is back."""
        statement = (
            "update b3.retention_log set restored_at = %s, restored_by = %s, restored_why = %s where id = %s "
            "and restored_at is null"
        )
        self._db.execute(statement, (at, who, why, entry.id))

    def standing(self) -> list[Entry]:
        """What was taken away and nobody restored, also where the drop is not known to be done; in the order of time."""
        return self._all(Entry, _STANDING)

    def entries(self, limit: int) -> list[Entry]:
        """What was ever entered, newest first."""
        return self._all(Entry, "select * from b3.retention_log order by id desc limit %s", limit)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One run (or restore) at a time, over all processes. Raises RetentionError when another is at it."""
        [free] = self._db.execute(f"select pg_try_advisory_lock({_RUNNING})").fetchone() or (False,)
        if not free:
            raise RetentionError("Another retention run or restore is at it: wait until it is done.")
        try:
            yield
        finally:
            self._db.execute(f"select pg_advisory_unlock({_RUNNING})")

    @contextmanager
    def _alone_with_holds(self) -> Iterator[None]:
        """So that no hold is put between a look at them and an intent."""
        with self._db.transaction():
            self._db.execute("lock table b3.retention_holds in share row exclusive mode")
            yield

    def _all(self, kind: Any, query: LiteralString, *values: object) -> list[Any]:
        with self._db.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(query, values or None).fetchall()


_connected = partial(connected, error=RetentionError, what="the retention log")


@contextmanager
def open_retention_log(dsn: str) -> Iterator[RetentionLog]:
    """The retention log of a database; its tables are made when they are not there.

    Raises RetentionError when PostgreSQL does not answer or refuses, BadDsn when nobody can ask it.
    """
    with _connected(dsn, ddl=_DDL) as db:
        yield RetentionLog(db)


@dataclass(frozen=True)
class TakenAway:
    """What a retention has taken away and nobody restored: windows by table, in order; rows by table and load.

    Rows of a table that name no load are under 0. `exports` has the checksum of what was dropped, by table and partition.
    """

    windows: Mapping[str, list[Window]] = field(default_factory=dict)
    rows: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    exports: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def text(self) -> str:
        """As it is kept on disk."""
        windows = {t: [[str(w.start), str(w.end)] for w in some] for t, some in self.windows.items()}
        return json.dumps({"windows": windows, "rows": self.rows, "exports": self.exports}, indent=1, sort_keys=True)

    @classmethod
    def of_text(cls, text: str) -> TakenAway:
        """Raises ValueError, KeyError, TypeError or AttributeError for what is none."""
        given = json.loads(text)
        windows = {
            table: [Window(datetime.fromisoformat(start), datetime.fromisoformat(end)) for start, end in some]
            for table, some in given["windows"].items()
        }
        rows = {table: {int(load): int(n) for load, n in loads.items()} for table, loads in given["rows"].items()}
        return cls(windows, rows, given.get("exports", {}))  # older releases kept none


def taken_away(entries: Sequence[Entry]) -> TakenAway:
    """What standing entries say; windows that follow one another are one."""
    windows: dict[str, list[Window]] = {}
    rows: dict[str, dict[int, int]] = {}
    exports: dict[str, dict[str, str]] = {}
    for entry in sorted(entries, key=lambda e: (e.table_name, e.start_at)):
        of_table = windows.setdefault(entry.table_name, [])
        if of_table and of_table[-1].end == entry.window.start:
            of_table[-1] = Window(of_table[-1].start, entry.window.end)
        else:
            of_table.append(entry.window)
        loads = rows.setdefault(entry.table_name, {})
        for load, count in entry.loads.items():
            loads[int(load)] = loads.get(int(load), 0) + count
        exports.setdefault(entry.table_name, {})[entry.partition] = entry.checksum
    return TakenAway(windows, rows, exports)


def known(dsn: str | None, home: Path) -> TakenAway:
    """What was taken away, as PostgreSQL says, or as it last said (`dsn` None: it is away). Never fails."""
    try:
        if dsn is None:
            raise RetentionError("no PostgreSQL")
        with _connected(dsn, connect_timeout_s=2, statement_timeout_ms=2_000) as db:
            standing = taken_away(_standing(RetentionLog(db)))
    except (RetentionError, psycopg.Error):
        return _kept(home)
    keep(home, standing)
    return standing


def _standing(log: RetentionLog) -> list[Entry]:
    try:
        return log.standing()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):  # nobody has made them yet
        return []


def keep(home: Path, standing: TakenAway) -> None:
    """Puts the state on disk, where it is another than before. A disk that is full stops no reader."""
    file, text = home / FILE, standing.text()
    try:
        before = file.read_text("utf-8") if file.exists() else TakenAway().text()
        if before != text:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(file, text)
    except (OSError, UnicodeDecodeError):
        return


def _kept(home: Path) -> TakenAway:
    try:
        return TakenAway.of_text((home / FILE).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return TakenAway()
