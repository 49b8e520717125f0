"""Only what reads is let through, as the user who may only read."""

from __future__ import annotations

import pytest

from b3_pipeline.errors import UsageError
from b3_pipeline.questdb.client import Address, QuestDB, QuestDBError
from b3_pipeline.questdb.reader import reading


def read(address: Address, query: str) -> tuple[list[str], list[tuple]]:
    with reading(address, query) as (columns, rows):
        return columns, list(rows)


@pytest.mark.parametrize(
    "query",
    [
        "select 1 x",
        "SELECT 1 x;",
        "-- why\nselect 1 x",
        "with t as (select 1 x) select * from t",
        "/* a; */ select 1 x",
    ],
)
def test_one_select_gives_its_columns_and_rows(questdb: Address, query: str) -> None:
    assert read(questdb, query) == (["x"], [(1,)])


def test_words_in_texts_and_quoted_names_and_updated_at_are_no_writes(questdb: Address) -> None:
    query = "select 'update; drop' \"insert\", updated_at from (select 1 updated_at)"
    assert read(questdb, query) == (["insert", "updated_at"], [("update; drop", 1)])


def test_a_semicolon_in_a_text_is_no_second_statement(questdb: Address) -> None:
    assert read(questdb, "select 'a;b''c' x") == (["x"], [("a;b'c",)])


@pytest.mark.parametrize(
    "query",
    [
        "drop table b3_loads",
        "copy b3_loads to 'x'",
        "insert into b3_loads(ts) values (0)",
        "select 1; drop table b3_loads",
        "",
        "-- select\ntruncate table b3_loads",
        "with x as (select 1 a) update b3_loads set file = 'x'",
        "WITH x AS (select 1) INSERT INTO b3_loads(ts) select 0",
    ],
)
def test_anything_else_is_refused(questdb: Address, query: str) -> None:
    with pytest.raises(UsageError):
        read(questdb, query)


def test_the_reader_itself_may_not_write(db: QuestDB) -> None:
    address = db.address
    as_reader = Address(
        address.http_url, address.reader, address.reader_password, address.pg_host, address.pg_port, "", ""
    )
    with QuestDB(as_reader) as reader, pytest.raises(QuestDBError):
        reader.query("truncate table b3_loads")


def test_a_wrong_query_is_an_error_with_the_servers_words(questdb: Address) -> None:
    with pytest.raises(QuestDBError, match="nowhere"):
        read(questdb, "select * from nowhere")


def test_a_result_without_rows_has_its_columns_all_the_same(questdb: Address) -> None:
    assert read(questdb, "select x, x * 2 as y from long_sequence(0)") == (["x", "y"], [])


def test_rows_come_as_they_are_asked_for_and_the_rest_is_not_waited_for(questdb: Address) -> None:
    with reading(questdb, "select x from long_sequence(9000000000000000)") as (columns, rows):
        assert (columns, [next(rows) for _ in range(3)]) == (["x"], [(1,), (2,), (3,)])
