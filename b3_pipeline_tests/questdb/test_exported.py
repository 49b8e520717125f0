"""Many rows as CSV are what they are over the PG wire, to the last bit; where they cannot be, they come over the wire."""

from __future__ import annotations

import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from http.client import HTTPConnection
from socket import create_server, socket
from typing import Any
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from b3_pipeline.questdb import client
from b3_pipeline.questdb.client import QuestDB, QuestDBError, as_arrow, named
from b3_pipeline.questdb.exported import Refused, exported
from b3_pipeline.tables import TABLES

SNAPSHOTS = TABLES["b3_snapshots"]
FORM = SNAPSHOTS.arrow_schema()
QUERY = named("select {columns} from b3_snapshots order by ts", columns=FORM.names)
START = datetime(2025, 10, 13)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
symbols = st.one_of(st.none(), texts)
doubles = st.one_of(
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(min_size=8, max_size=8).map(lambda bits: struct.unpack("<d", bits)[0]).filter(lambda d: d - d == 0),
    st.sampled_from([0.0, -0.0, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 0.1 + 0.2, 99121.69, 1e22]),
)
longs = st.one_of(st.none(), st.integers(-(2**63) + 1, 2**63 - 1))
days = st.one_of(st.none(), st.dates(date(1900, 1, 1), date(2200, 1, 1)))
given_rows = st.lists(st.tuples(days, symbols, texts, texts, doubles, doubles, symbols, symbols, longs), max_size=20)
NASTY = (
    "\\",
    '"',
    '""',
    "\\n",
    "line\nbreak\r\n",
    "\t\b\f\x01\x7f",
    ",",
    "null",
    "",
    " a ",
    "'",
    "%s",
    "áé日本🎉\u2028\ufeff",
)


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a single row count as many."""
    monkeypatch.setattr(client, "MANY_ROWS", 1)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each call that had many rows to fetch has taken."""
    taken: list[str] = []

    def noted(*args: Any) -> pa.Table | None:
        rows = exported(*args)
        taken.append("wire" if rows is None else "csv")
        return rows

    monkeypatch.setattr(client, "exported", noted)
    return taken


def filled(db: QuestDB, rows: list[tuple[Any, ...]]) -> None:
    """The table with these rows and no others, a second each."""
    db.execute("TRUNCATE TABLE b3_snapshots")
    moments = (START + timedelta(hours=7 * place, microseconds=place) for place in range(len(rows)))
    whole = [
        (ts, day, one, two, three, price, previous, four, five, None, "legacy_csv", number)
        for ts, (day, one, two, three, price, previous, four, five, number) in zip(moments, rows, strict=True)
    ]
    db.send(SNAPSHOTS.name, as_arrow(whole, FORM))
    db.wait_applied(SNAPSHOTS.name)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=given_rows)
@example(rows=[(None, text, text, text, None, 1.0, None, text, 0) for text in NASTY])
@example(rows=[(None, None, "", "", None, None, "", None, None)])
def test_every_value_comes_back_as_over_the_wire(
    db: QuestDB, few_are_many: None, ways: list[str], rows: list[tuple[Any, ...]]
) -> None:
    filled(db, rows)
    over_the_wire, as_csv = as_arrow(db.query(QUERY), FORM), db.arrow(QUERY, schema=FORM)
    assert as_csv.schema == FORM
    assert repr(as_csv.to_pylist()) == repr(over_the_wire.to_pylist())  # of floats the sign of zero, too
    assert as_csv.num_rows == len(rows)
    assert set(ways) <= {"csv"}


def test_numbers_of_any_bits_keep_them(db: QuestDB, ways: list[str]) -> None:
    numbers = [struct.unpack("<d", struct.pack("<Q", n * 0x9E37_79B9_7F4A_7C15 % 2**64))[0] for n in range(1, 40_001)]
    values = [number if number - number == 0 else 0.5 for number in numbers]
    moments = pa.array([START + timedelta(seconds=n) for n in range(len(values))], pa.timestamp("us"))
    names = pa.array(["DI1"] * len(values)).dictionary_encode()
    db.send("b3_adjustments", pa.table({"ts": moments, "instrument": names, "price_settlement": values}))
    db.wait_applied("b3_adjustments")
    form = pa.schema([("price_settlement", pa.float64())])
    found = db.arrow("select price_settlement from b3_adjustments order by ts", schema=form)
    assert (found.column(0).to_pylist() == values, ways) == (True, ["csv"])


def test_values_in_the_text_of_a_query_are_never_sql(db: QuestDB, few_are_many: None, ways: list[str]) -> None:
    names = ["x' or 1=1 --", "100%s {file}", "';drop table b3_loads;'", r"C:\dados\'x", "\\", '"', "DI1"]
    filled(db, [(None, "", name, "X25", None, None, None, None, 1) for name in names])
    query = named("select {columns} from b3_snapshots where instrument = %s and ts >= %s", columns=FORM.names)
    for name in names:
        assert db.arrow(query, name, START, schema=FORM).column("instrument").to_pylist() == [name]
    assert len(ways) == len([name for name in names if "\\" not in name])  # those are bound over the wire


def test_a_column_of_nulls_alone_is_no_empty_line(db: QuestDB, few_are_many: None, ways: list[str]) -> None:
    filled(db, [(None, None, "DI1", "X25", None, None, None, None, None)] * 3)
    form = pa.schema([("price_settlement", pa.float64())])
    assert db.arrow("select price_settlement from b3_snapshots", schema=form).column(0).to_pylist() == [None] * 3
    assert ways == ["csv"]


def test_a_server_that_has_too_many_exports_under_way_gives_the_rows_over_the_wire(
    db: QuestDB, few_are_many: None, ways: list[str]
) -> None:
    filled(db, [(None, None, "DI1", "X25", 1.5, None, None, None, 1)])
    url = urlsplit(db.address.http_url)
    with ExitStack() as stack:
        for _ in range(2):  # that many may export by the server's own settings, as long as they are connected
            other = HTTPConnection(url.hostname or "", url.port)
            stack.callback(other.close)
            other.request("GET", "/exp?" + urlencode({"query": "select 1"}), headers=_authorised(db))
            assert other.getresponse().read()
        assert db.arrow(QUERY, schema=FORM).num_rows == 1
        assert ways == ["wire"]
    assert db.arrow(QUERY, schema=FORM).num_rows == 1


def test_a_row_that_is_longer_than_what_is_read_at_once_comes_over_the_wire(
    db: QuestDB, few_are_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b3_pipeline.questdb.exported._BLOCK", 1_000)
    filled(db, [(None, "x" * 5_000, "DI1", "X25", None, None, None, None, place) for place in range(4)])
    assert db.arrow(QUERY, schema=FORM).column("coleta_hora").to_pylist() == ["x" * 5_000] * 4


def test_an_answer_that_breaks_off_is_an_error_and_no_shorter_table(db: QuestDB, few_are_many: None) -> None:
    filled(db, [(None, None, "DI1", "X25", 1.5, None, None, None, 1)] * 3)
    begun = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"a"\r\n\r\n'
    for answer in (b"", begun):
        with (
            answering(answer) as url,
            QuestDB(replace(db.address, http_url=url)) as broken,
            pytest.raises(QuestDBError, match="did not answer"),
        ):
            broken.arrow("select instrument from b3_snapshots", schema=pa.schema([("instrument", pa.string())]))


def test_a_query_that_is_refused_says_why(db: QuestDB) -> None:
    address = db.address
    with pytest.raises(Refused, match="b3_nothing"):
        exported(address.http_url, address.user, address.password, "select * from b3_nothing", FORM)


def test_a_user_who_may_not_export_gets_the_rows_over_the_wire(
    db: QuestDB, few_are_many: None, ways: list[str]
) -> None:
    filled(db, [(None, None, "DI1", "X25", 1.5, None, None, None, 1)])
    address = replace(db.address, user=db.address.reader, password=db.address.reader_password)
    with QuestDB(address) as reader:
        assert reader.arrow(QUERY, schema=FORM).num_rows == 1
    assert ways == ["wire"]


def _authorised(db: QuestDB) -> dict[str, str]:
    secret = b64encode(f"{db.address.user}:{db.address.password}".encode()).decode()
    return {"Authorization": f"Basic {secret}"}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives each request this answer and hangs up; its URL."""
    with create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, answer), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(2)
    thread.join()


def _serve(server: socket, answer: bytes) -> None:
    accept: Callable[[], tuple[socket, Any]] = server.accept
    while True:
        try:
            connection, _address = accept()
        except OSError:
            return
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)
