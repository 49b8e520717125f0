"""Bots and channels: tables that are only appended to, a row a version. A change is a new version, a deletion is one, too.

The newest version of an id counts. A bot's token goes into the vault; the version has a reference to it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.locks import holding
from b3_pipeline.parsing.json_text import Array, Json, Number, Object, decode
from b3_pipeline.parsing.records import Reason
from b3_pipeline.parsing.tp_capital import parse_list
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.signals.hiding import HIDDEN, Name, dump, sealed
from b3_pipeline.tables import TABLES, Table

BOTS, CHANNELS = TABLES["telegram_bots"], TABLES["telegram_channels"]
DELETED = "deleted"
#: How long a change waits for whoever else loads into the table.
PATIENCE_S = 5.0
#: What stays as it was when a change does not give it.
_KEPT = ("token", "signal_count", "last_signal")
_MICROSECOND = timedelta(microseconds=1)

Row = Mapping[str, Any]
#: What a change gives, by column; None and what is left out are the same.
Given = Mapping[str, str | int | None]


class BadVersion(B3Error):
    """What was given breaks a rule. `faults` are pairs of column and reason; no value is among them."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{column}: {reason}" for column, reason in faults))
        self.faults = faults


class NoSuchVersion(B3Error):
    """There is no bot or channel of that id, or it is deleted."""


class Exists(B3Error):
    """There is one of that id."""


class Outdated(B3Error):
    """Somebody has changed it since: `current` is what it is now."""

    def __init__(self, current: Row) -> None:
        super().__init__(
            f"{current['id']!r} was changed since: look at it again, then send the change with its new ETag."
        )
        self.current = current


def tag_of(row: Row) -> str:
    """The entity tag of a version."""
    return f'"{row["updated_at"].isoformat()}"'


def new_id(what: str, now: datetime) -> str:
    """An id as TP-Capital makes them: `bot-1759000000000-188`."""
    return f"{what}-{int(now.timestamp() * 1_000)}-{secrets.randbelow(1_000)}"


def latest(table: Table, most: int) -> tuple[Any, tuple[Any, ...]]:
    """The query of the newest version of each id, by id, and its values."""
    query = "select {columns} from {view} order by id limit %s"
    return named(query, columns=table.arrow_schema().names, view=f"{table.name}_current"), (most,)


@dataclass(frozen=True)
class Versions:
    """The versions of one table, for whoever changes them. `name` puts a bot's token into the vault and gives its reference."""

    db: QuestDB
    home: Path
    clock: Callable[[], datetime]
    table: Table
    name: Name

    def create(self, ident: str, given: Given) -> Row:
        """The first version of an id, or the next of a deleted one. Raises Exists, BadVersion, TableBusy, QuestDBError."""
        with holding(self.db, self.home, self.table, PATIENCE_S):
            before = self._newest(ident)
            if before is not None and before["status"] != DELETED:
                raise Exists(f"There is a {ident!r} already: change that one, or give another id.")
            return self._write(self._version(ident, given, before))

    def replace(self, ident: str, given: Given, match: str | None) -> Row:
        """The next version of an id. Raises NoSuchVersion, Outdated, BadVersion, TableBusy, QuestDBError."""
        with holding(self.db, self.home, self.table, PATIENCE_S):
            return self._write(self._version(ident, given, self._current(ident, match)))

    def delete(self, ident: str, match: str | None) -> Row:
        """The last version of an id: it is deleted from then on. Raises NoSuchVersion, Outdated, TableBusy, QuestDBError."""
        with holding(self.db, self.home, self.table, PATIENCE_S):
            before = self._current(ident, match)
            return self._write({**before, "status": DELETED, "updated_at": self._moment(before)})

    def _current(self, ident: str, match: str | None) -> Row:
        """The version that is changed; where `match` names entity tags, it has one of them."""
        before = self._newest(ident)
        if before is None or before["status"] == DELETED:
            raise NoSuchVersion(f"There is no {ident!r}.")
        if (
            match is not None
            and match.strip() != "*"
            and tag_of(before) not in {one.strip() for one in match.split(",")}
        ):
            raise Outdated(before)
        return before

    def _newest(self, ident: str) -> Row | None:
        schema = self.table.arrow_schema()
        query = named(
            "select {columns} from {table} where id = %s order by updated_at desc limit 1",
            columns=schema.names,
            table=self.table.name,
        )
        rows = self.db.arrow(query, ident, schema=schema).to_pylist()
        return rows[0] if rows else None

    def _version(self, ident: str, given: Given, before: Row | None) -> dict[str, Any]:
        """The next version, by the rules of TP-Capital's files. Raises BadVersion."""
        now = self._moment(before)
        written = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        record = Object({name: _json(value) for name, value in given.items()})
        record |= {"id": ident, "created_at": written, "updated_at": written}
        clear = sealed(Array([record]), "token" if given.get("token") else "", lambda _bot, _token: HIDDEN)
        chunk = next(parse_list(decode(dump(clear).encode()), self.table))
        if chunk.rejects:
            raise BadVersion([((one.column or "").removeprefix("/0/"), one.reason) for one in chunk.rejects])
        [row] = chunk.records.select(self.table.arrow_schema().names).to_pylist()
        if blank := [
            (name, Reason.BAD_TEXT) for name, value in given.items() if value not in (None, "") and row[name] is None
        ]:
            raise BadVersion(blank)
        kept = {name: before[name] for name in _KEPT if before and name in row and row[name] is None}
        if isinstance(token := given.get("token"), str) and token:  # nothing that is refused gets into the vault
            row["token"] = self.name(row["id"], token.strip())
        created = now if before is None else before["created_at"]
        return {**row, **kept, "created_at": created, "updated_at": now}

    def _moment(self, before: Row | None) -> datetime:
        """Now, naive UTC, and after the version before."""
        now = self.clock().astimezone(UTC).replace(tzinfo=None)
        return now if before is None else max(now, before["updated_at"] + _MICROSECOND)

    def _write(self, row: dict[str, Any]) -> Row:
        """Writes a version, and gives it when readers see it."""
        schema = self.table.arrow_schema()
        self.db.send(self.table.name, pa.Table.from_pylist([row], schema=schema), self.table.timestamp)
        self.db.wait_applied(self.table.name)
        return row


def _json(value: str | int | None) -> Json:
    return Number(value) if isinstance(value, int) else value
