"""Talking to a QuestDB server: statements over `/exec`, bound queries over the PG wire, rows over ILP/HTTP.

Many rows at once take quicker ways: to a server on this machine as a Parquet file, which it reads itself; from any
server as CSV, which Arrow reads.
"""

from __future__ import annotations

import json
import math
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPException
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2
import psycopg
import pyarrow as pa
from psycopg import sql

from b3_pipeline.errors import B3Error
from b3_pipeline.questdb.exported import Refused, exported

if TYPE_CHECKING:
    import pandas as pd
    import questdb

#: Rows in one ILP request. A request is one transaction; 100 000 rows of the widest table stay below the client's
#: buffer limit of 100 MB.
ROWS_PER_REQUEST = 100_000
#: Rows that `stream` fetches at once.
ROWS_AT_ONCE = 1_000
#: From so many rows on, a Parquet file costs less than ILP, and CSV less than rows over the PG wire.
MANY_ROWS = 20_000
#: So long a connection may lie idle; the server closes one after 300 s, and who asks then is told that it is away.
IDLE_S = 120.0
#: Of a query that goes in an address: the server takes 64 KB of headers.
_LONGEST_QUERY = 16_000


Query = LiteralString | sql.Composed
_URL_FORM = "B3_QUESTDB_URL must look like http://user:password@host:9000?pg_port=8812."


def named(query: LiteralString, **names: str | Sequence[str]) -> sql.Composed:
    """A query whose `{placeholders}` become quoted names of tables and columns (which cannot be bound)."""
    return sql.SQL(query).format(
        **{
            key: sql.Identifier(name) if isinstance(name, str) else sql.SQL(", ").join(map(sql.Identifier, name))
            for key, name in names.items()
        }
    )


class QuestDBError(B3Error):
    """The server refused something, or is not there."""


class NotApplied(QuestDBError):
    """The server took rows but does not show them: its WAL is suspended, or too slow."""


@dataclass(frozen=True)
class Address:
    """Where a QuestDB server is and who we are there. Its text shows no password.

    `import_folder` is the folder from which the server itself reads files, where it is one of this machine.
    """

    http_url: str
    user: str
    password: str = field(repr=False)
    pg_host: str
    pg_port: int
    reader: str
    reader_password: str = field(repr=False)
    import_folder: str | None = None

    @classmethod
    def from_url(cls, url: str) -> Address:
        """From `http://user:password@host:9000?pg_port=8812`, a server of one's own; reads with the same user."""
        try:
            parts = urlsplit(url)
            port, pg_port = parts.port, int(parse_qs(parts.query).get("pg_port", ["8812"])[0])
        except ValueError:
            raise B3Error(_URL_FORM) from None
        host = parts.hostname
        if parts.scheme not in ("http", "https") or not host:
            raise B3Error(_URL_FORM)
        user, password = unquote(parts.username or "admin"), unquote(parts.password or "quest")
        http_url = f"{parts.scheme}://{host}{f':{port}' if port else ''}"
        return cls(http_url, user, password, host, pg_port, user, password)


class QuestDB:
    """A connection to one server, for one thread. Close it, or use it in a `with` block.

    Every method raises `QuestDBError` when the server refuses or is away; no message shows a password.
    """

    def __init__(self, address: Address, *, apply_timeout_s: float = 120) -> None:
        self.address = address
        self.apply_timeout_s = apply_timeout_s
        self._http: httpx2.Client | None = None
        self._pg: psycopg.Connection[tuple[Any, ...]] | None = None
        self._asked_at = 0.0
        self._sender: questdb.Sender | None = None

    def __enter__(self) -> QuestDB:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives all connections back; the object may be used again afterwards."""
        for connection in (self._http, self._pg):
            if connection is not None:
                connection.close()
        self._http = self._pg = None
        self._close_sender()

    def _close_sender(self) -> None:
        if self._sender is not None:
            self._sender.close(flush=False)
        self._sender = None

    def execute(self, statement: str) -> dict[str, Any]:
        """One statement of ours over REST `/exec` (DDL); returns the server's JSON answer. No values in it: see `query`."""
        if self._http is None:
            auth = (self.address.user, self.address.password)
            self._http = httpx2.Client(base_url=self.address.http_url, auth=auth, timeout=60, trust_env=False)
        try:
            answer = self._http.get("/exec", params={"query": statement})
            body = answer.json()
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            raise QuestDBError(f"QuestDB at {self.address.http_url} did not answer: {error}") from error
        if answer.status_code != 200 or "error" in body:
            raise QuestDBError(f"QuestDB refused a statement: {body.get('error', answer.status_code)}")
        self._close_sender()  # it would go on writing to a table that was dropped, though there is one of its name again
        return body

    def table(self, query: Query, *values: object) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of one SELECT with `%s` bound to the values; TIMESTAMPs are naive UTC. For table names see `named`."""
        with self._connected() as connection, connection.cursor(binary=True) as cursor:
            cursor.execute(query, values or None)
            return [column.name for column in cursor.description or ()], cursor.fetchall()

    @contextmanager
    def stream(self, query: Query, *values: object) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
        """As `table`, but the rows come as they are asked for: any number in bounded memory. Ask within the block."""
        with self._connected() as connection, connection.cursor(binary=True) as cursor:
            rows = cursor.stream(query, values or None, size=ROWS_AT_ONCE)
            first = next(rows, None)
            try:
                yield (
                    [column.name for column in cursor.description or ()],
                    rows if first is None else chain([first], rows),
                )
            finally:
                if next(rows, None) is not None:  # giving the query up would first fetch all that nobody asked for
                    connection.close()

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """The connection over the PG wire; what goes wrong on it is a QuestDBError."""
        asked_at, self._asked_at = self._asked_at, math.inf  # in use: not idle for who asks meanwhile
        try:
            if self._pg is not None and time.monotonic() - asked_at > IDLE_S:
                self._pg.close()
            if self._pg is None or self._pg.closed:
                self._pg = psycopg.connect(
                    host=self.address.pg_host,
                    port=self.address.pg_port,
                    user=self.address.user,
                    password=self.address.password,
                    dbname="qdb",
                    autocommit=True,
                    prepare_threshold=None,
                    connect_timeout=10,
                )
            yield self._pg
        except psycopg.OperationalError as error:
            where = f"{self.address.pg_host}:{self.address.pg_port}"
            raise QuestDBError(
                f"QuestDB does not answer at {where} (PG wire): {error}. Is it up (`b3 status`), is B3_QUESTDB_URL right?"
            ) from error
        except psycopg.Error as error:
            raise QuestDBError(f"QuestDB refused a query: {error}") from error
        finally:
            self._asked_at = max(asked_at, time.monotonic())  # who asked meanwhile leaves it in use

    def query(self, query: Query, *values: object) -> list[tuple[Any, ...]]:
        """The rows of `table`."""
        return self.table(query, *values)[1]

    def arrow(self, query: Query, *values: object, schema: pa.Schema) -> pa.Table:
        """The rows of `table` in the given Arrow schema; a DATE is a day.

        Few rows come over the PG wire, many of them as CSV: five times as fast, in a fraction of the memory.
        """
        with self.stream(query, *values) as (_names, rows):
            few = list(islice(rows, MANY_ROWS))
            text = self._as_text(query, values) if len(few) == MANY_ROWS else None
            if text is None:
                return as_arrow([*few, *rows], schema)
        exported = self._exported(text, schema)
        return as_arrow(self.query(query, *values), schema) if exported is None else exported

    def _as_text(self, query: Query, values: Sequence[object]) -> str | None:
        """A query with its values in it, for an address cannot bind any; None where that is not beyond doubt.

        A text with a backslash is: psycopg doubles it in an E'…', which QuestDB takes as it stands.
        """
        if not all(_is_plain(value) for value in values):
            return None
        with self._connected() as connection:
            text = psycopg.ClientCursor(connection).mogrify(query, values or None)
        return text if len(text) <= _LONGEST_QUERY else None

    def _exported(self, query: str, schema: pa.Schema) -> pa.Table | None:
        """The rows as CSV; None when they have to come another way."""
        address = self.address
        try:
            return exported(address.http_url, address.user, address.password, query, schema)
        except Refused as error:
            raise QuestDBError(f"QuestDB refused a query: {error}") from None
        except (OSError, HTTPException) as error:
            raise QuestDBError(f"QuestDB at {address.http_url} did not answer: {error!r}") from error
        except pa.ArrowInvalid:  # a row that is longer than what Arrow reads at once
            return None

    def scalar(self, query: Query, *values: object) -> Any:
        """The one value of a query that gives one row."""
        return self.query(query, *values)[0][0]

    def send(self, table: str, rows: pa.Table, timestamp: str = "ts") -> None:
        """Writes rows and returns when the server has acknowledged them; see `wait_applied` for when they show.

        Dictionary columns go as SYMBOL, dates as DATE, `timestamp` is the designated one and has no nulls.
        """
        if rows.column(timestamp).null_count:  # ILP would send the row without one, and the server stamp it "now"
            raise QuestDBError(f"A row for {table} has no {timestamp}; nothing was sent.")
        if self.address.import_folder is not None and rows.num_rows >= MANY_ROWS:
            self._import(Path(self.address.import_folder), table, rows, timestamp)
        else:
            self._send(table, rows, timestamp)

    def _import(self, folder: Path, table: str, rows: pa.Table, timestamp: str) -> None:
        """Writes rows through a Parquet file that the server reads, gone afterwards."""
        import pyarrow.parquet

        rows = rows.unify_dictionaries()  # a column may come in chunks with a dictionary each
        name = f"{table}/{uuid.uuid4()}.parquet"
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        constants = _constants(rows.drop_columns(timestamp))
        columns = [c for c in rows.column_names if c not in constants]
        insert = sql.SQL("insert into {table} ({columns}) select {values} from read_parquet({file})").format(
            table=sql.Identifier(table),
            columns=sql.SQL(", ").join(map(sql.Identifier, [*columns, *constants])),
            values=sql.SQL(", ").join([*map(sql.Identifier, columns), *map(sql.Literal, constants.values())]),
            file=sql.Literal(name),  # where a file is named, the server takes no bound value
        )
        try:
            file = _importable(rows.select(columns))
            pyarrow.parquet.write_table(file, path, compression="none", write_statistics=False)
            with self._connected() as connection:
                connection.execute(insert)
        finally:
            path.unlink(missing_ok=True)

    def forget_imports(self, table: str) -> None:
        """Ends the imports into a table that killed processes began; nobody else may be writing to it.

        The server finishes an insert whose client is gone, and whose file: it is waited for, and its rows show after
        `wait_applied`. Raises NotApplied when one still goes on after `apply_timeout_s`.
        """
        if self.address.import_folder is not None:
            shutil.rmtree(Path(self.address.import_folder, table), ignore_errors=True)  # so that none begins any more
        importing = "select query_id from query_activity() where query like %s"
        deadline = time.monotonic() + self.apply_timeout_s
        while found := self.query(importing, f"insert %read_parquet('{table}/%"):
            if time.monotonic() > deadline:
                raise NotApplied(
                    f"QuestDB still imports rows of an earlier load into {table} after {self.apply_timeout_s:.0f} s. "
                    f"Run it again later, or first break the import off: CANCEL QUERY {found[0][0]}."
                )
            time.sleep(0.02)

    def _send(self, table: str, rows: pa.Table, timestamp: str) -> None:
        import questdb  # here, for it imports pandas: a second that commands and definitions need not wait

        try:
            if self._sender is None:
                self._sender = self._connected_sender()
            for start in range(0, rows.num_rows, ROWS_PER_REQUEST):
                frame = _frame(rows.slice(start, ROWS_PER_REQUEST))
                symbols = [c for c in frame.columns if pa.types.is_dictionary(rows.schema.field(c).type)]
                self._sender.dataframe(frame, table_name=table, symbols=symbols, at=timestamp)
                self._sender.flush()
        except questdb.QuestDBError as error:
            self._sender = None
            raise QuestDBError(f"QuestDB did not take rows for {table}: {error}") from error

    def _connected_sender(self) -> questdb.Sender:
        from questdb import Protocol, Sender

        url = urlsplit(self.address.http_url)
        sender = Sender(
            Protocol.Https if url.scheme == "https" else Protocol.Http,
            url.hostname or "127.0.0.1",
            url.port or 9000,
            username=self.address.user,
            password=self.address.password,
            auto_flush=False,
        )
        sender.establish()
        return sender

    def wait_applied(self, table: str) -> None:
        """Waits until all that was sent to the table so far shows in queries.

        Raises NotApplied when the table's WAL is suspended, or after `apply_timeout_s`; QuestDBError when it has none.
        """
        state = "select suspended, writerTxn, sequencerTxn, errorMessage from wal_tables() where name = %s"
        target, deadline, pause = None, time.monotonic() + self.apply_timeout_s, 0.002
        while True:
            found = self.query(state, table)
            if not found:
                raise QuestDBError(f"The table {table} is not there, or has no WAL. Run: b3 schema apply")
            suspended, writer, sequencer, message = found[0]
            target = sequencer if target is None else target
            if suspended:
                raise NotApplied(
                    f"QuestDB has suspended {table}: {message or 'no reason given'}. "
                    f"Free disk space if it is full, then: ALTER TABLE {table} RESUME WAL."
                )
            if writer >= target:
                return
            if time.monotonic() > deadline:
                raise NotApplied(
                    f"QuestDB has not applied rows sent to {table} for {self.apply_timeout_s:.0f} s; run it again later."
                )
            time.sleep(pause)
            pause = min(pause * 1.25, 0.05)


def _frame(rows: pa.Table) -> pd.DataFrame:
    """Arrow to the pandas form that the sender takes: whole numbers stay whole when some are null.

    A column without a value is left out: the server makes it null, and the sender cannot tell what an empty one is of.
    """
    columns = {
        f.name: rows.column(f.name).cast(pa.timestamp("us")) if pa.types.is_date(f.type) else rows.column(f.name)
        for f in rows.schema
        if rows.column(f.name).null_count < rows.num_rows
    }
    import pandas as pd

    integers: dict[pa.DataType, Any] = {pa.int64(): pd.Int64Dtype()}
    return pa.table(columns).to_pandas(types_mapper=integers.get)


def _constants(rows: pa.Table) -> dict[str, object]:
    """The columns that have one value in all rows, as those that a load adds, and that value: the file goes without.

    A text with a backslash stays in the file: psycopg doubles it in an E'…', which QuestDB takes as it stands.
    """
    first = {
        name: column[0].as_py()
        for name, column in zip(rows.column_names, rows.columns, strict=True)
        if not column.null_count and _is_constant(column)
    }
    return {name: value for name, value in first.items() if "\\" not in str(value)}


def _is_constant(column: pa.ChunkedArray) -> bool:
    """Whether all values are known to be the same, where that is quickly told."""
    if pa.types.is_dictionary(column.type):
        return all(len(chunk.dictionary) == 1 for chunk in column.chunks)
    if pa.types.is_integer(column.type) or pa.types.is_timestamp(column.type):
        values = column.to_numpy()
        return bool((values == values[0]).all())
    return False


def _is_plain(value: object) -> bool:
    """Whether a value stands in a statement as what it is, whatever it says."""
    if isinstance(value, datetime):
        return value.tzinfo is None
    return isinstance(value, int) or (isinstance(value, str) and "\\" not in value and "\0" not in value)


def _importable(rows: pa.Table) -> pa.Table:
    """Arrow in the types that the server knows in Parquet: a day as a moment, as its DATE is one."""
    days = [f.with_type(pa.timestamp("ms")) if pa.types.is_date(f.type) else f for f in rows.schema]
    return rows.cast(pa.schema(days))


def as_arrow(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Rows of `query` as an Arrow table; QuestDB's DATE comes as a moment and becomes a day again."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    return pa.table(
        [
            pa.array([v.date() if isinstance(v, datetime) and pa.types.is_date(f.type) else v for v in column], f.type)
            for f, column in zip(schema, columns, strict=True)
        ],
        schema=schema,
    )
