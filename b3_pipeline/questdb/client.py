"""Talking to a QuestDB server: statements over `/exec`, bound queries over the PG wire, rows over ILP/HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2
import psycopg
import pyarrow as pa
from psycopg import sql

from b3_pipeline.errors import B3Error

if TYPE_CHECKING:
    import pandas as pd
    import questdb

#: Rows in one ILP request. A request is one transaction; 100 000 rows of the widest table stay below the client's
#: buffer limit of 100 MB.
ROWS_PER_REQUEST = 100_000


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
    """Where a QuestDB server is and who we are there. Its text shows no password."""

    http_url: str
    user: str
    password: str = field(repr=False)
    pg_host: str
    pg_port: int
    reader: str
    reader_password: str = field(repr=False)

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
        if self._sender is not None:
            self._sender.close(flush=False)
        self._http = self._pg = self._sender = None

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
        return body

    def table(self, query: Query, *values: object) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of one SELECT with `%s` bound to the values; TIMESTAMPs are naive UTC. For table names see `named`."""
        try:
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
            with self._pg.cursor(binary=True) as cursor:
                cursor.execute(query, values or None)
                return [column.name for column in cursor.description or ()], cursor.fetchall()
        except psycopg.OperationalError as error:
            where = f"{self.address.pg_host}:{self.address.pg_port}"
            raise QuestDBError(
                f"QuestDB does not answer at {where} (PG wire): {error}. Is it up (`b3 status`), is B3_QUESTDB_URL right?"
            ) from error
        except psycopg.Error as error:
            raise QuestDBError(f"QuestDB refused a query: {error}") from error

    def query(self, query: Query, *values: object) -> list[tuple[Any, ...]]:
        """The rows of `table`."""
        return self.table(query, *values)[1]

    def scalar(self, query: Query, *values: object) -> Any:
        """The one value of a query that gives one row."""
        return self.query(query, *values)[0][0]

    def send(self, table: str, rows: pa.Table, timestamp: str = "ts") -> None:
        """Writes rows and returns when the server has acknowledged them; see `wait_applied` for when they show.

        Dictionary columns go as SYMBOL, dates as DATE, `timestamp` is the designated one and has no nulls.
        """
        if rows.column(timestamp).null_count:  # ILP would send the row without one, and the server stamp it "now"
            raise QuestDBError(f"A row for {table} has no {timestamp}; nothing was sent.")
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

        Raises NotApplied when the table's WAL is suspended, or after `apply_timeout_s`.
        """
        state = "select suspended, writerTxn, sequencerTxn, errorMessage from wal_tables() where name = %s"
        target, deadline, pause = None, time.monotonic() + self.apply_timeout_s, 0.002
        while True:
            suspended, writer, sequencer, message = self.query(state, table)[0]
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
