"""The rules of LowDB's records: what may be, the canonical form, the row, the ETag, and the words."""

from __future__ import annotations

import json
import random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from b3_pipeline.lowdb import rules, schema
from b3_pipeline.lowdb.model import BY_TABLE, COLLECTIONS, IDEAS, LINKS, SYSTEMS, Collection, Field, Kind
from b3_pipeline.lowdb.rules import BadRecord, checked, etag, of_row, same, to_row
from b3_pipeline_tests.lowdb.recorded import idea, link, system

_STORABLE = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
_LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip)
_TEXT = st.text(_STORABLE, max_size=60)
_NUMBERS = st.integers(-int(rules.LARGEST), int(rules.LARGEST)) | st.floats(-rules.LARGEST, rules.LARGEST)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_MOMENT = st.datetimes(
    min_value=rules.datetime(1971, 1, 2), max_value=rules.datetime(2261, 1, 1), timezones=st.just(rules.UTC)
).map(lambda moment: moment.isoformat())


def _value(field: Field) -> st.SearchStrategy[Any]:
    numbers = st.integers(field.low, field.high)
    return {
        Kind.TEXT_ID: numbers.map(str),
        Kind.ID: numbers,
        Kind.WHOLE: numbers,
        Kind.TITLE: _LINES,
        Kind.TEXT: _TEXT,
        Kind.CHOICE: st.sampled_from(field.choices or ("",)),
        Kind.TAGS: st.lists(_TEXT, max_size=4),
        Kind.MOMENT: _MOMENT if field.required else _MOMENT | st.none(),
    }[field.kind]


@st.composite
def records(draw: st.DrawFn) -> tuple[Collection, dict[str, Any]]:
    """A collection and a record that may be, with members that no field names."""
    collection = draw(st.sampled_from(COLLECTIONS))
    named = {field.name: draw(_value(field)) for field in collection.fields}
    return collection, draw(st.dictionaries(_TEXT, _JSON, max_size=2)) | named


@given(records())
def test_a_record_is_the_same_after_its_row_and_in_canonical_form_already(
    given: tuple[Collection, dict[str, Any]],
) -> None:
    collection, record = given
    canonical = checked(collection, record)
    assert checked(collection, canonical) == canonical
    assert of_row(collection, to_row(collection, canonical)) == canonical
    assert list(canonical)[: len(collection.fields)] == [field.name for field in collection.fields]


@given(records(), st.randoms())
def test_an_etag_is_of_the_content_alone(given: tuple[Collection, dict[str, Any]], chance: random.Random) -> None:
    collection, record = given
    canonical = checked(collection, record)
    members = list(json.loads(json.dumps(canonical)).items())
    chance.shuffle(members)
    other = dict(members)
    assert etag(other) == etag(canonical)
    assert same(other, canonical)
    changed = {**other, "another member": True}
    assert etag(changed) != etag(canonical)
    assert not same(changed, canonical)
    assert etag(canonical)[0] == etag(canonical)[-1] == '"'


def test_true_is_not_one_to_an_etag() -> None:
    one, true = checked(IDEAS, idea(1, seen=1)), checked(IDEAS, idea(1, seen=True))
    assert not same(one, true)
    assert etag(one) != etag(true)


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("id", "0", "bad_number"),
        ("id", "01", "bad_number"),
        ("id", True, "bad_number"),
        ("id", "9223372036854775808", "out_of_bounds"),
        ("id", None, "bad_number"),
        ("title", " \u00a0", "bad_text"),
        ("title", "two\nlines", "bad_text"),
        ("title", "x" * 501, "bad_text"),
        ("title", 5, "bad_text"),
        ("description", "nul\0", "bad_text"),
        ("description", "half \ud800", "bad_text"),
        ("description", None, "bad_text"),
        ("category", "outra", "bad_text"),
        ("category", ["dashboard"], "bad_text"),
        ("status", "New", "bad_text"),
        ("tags", "coleta", "bad_text"),
        ("tags", ["a", 1], "bad_text"),
        ("tags", ["a\0"], "bad_text"),
        ("tags", ["a"] * 101, "out_of_bounds"),
        ("createdAt", "ontem", "bad_date"),
        ("createdAt", "2025-02-30T10:00:00.000Z", "bad_date"),
        ("createdAt", "2025-02-20T25:00:00.000Z", "bad_time"),
        ("createdAt", "2025-02-20T10:00:00.000", "bad_date"),
        ("createdAt", "1970-06-01T00:00:00.000Z", "bad_date"),
        ("createdAt", "9999-12-31T23:59:59-14:00", "bad_date"),
        ("createdAt", None, "bad_date"),
        ("updatedAt", 5, "bad_date"),
        ("more", float("nan"), "bad_number"),
        ("more", [1e309], "bad_number"),
        ("more", {"a": "\0"}, "bad_text"),
    ],
)
def test_what_may_not_be_is_named_with_its_place_and_its_reason(member: str, value: object, reason: str) -> None:
    with pytest.raises(BadRecord) as told:
        checked(IDEAS, idea(1, **{member: value}), "/ideas/7")
    [fault] = told.value.faults
    assert (fault.reason, fault.pointer) == (reason, f"/ideas/7/{member}")


def test_all_that_is_wrong_with_a_record_is_told() -> None:
    with pytest.raises(BadRecord) as told:
        checked(SYSTEMS, system(1, port=99_999, name="", status=None))
    assert [fault.pointer for fault in told.value.faults] == ["/name", "/port", "/status"]
    assert told.value.faults[1].message == "must be from 1 to 65535."


def test_values_have_one_form() -> None:
    given = idea(1, id=7, createdAt="2025-06-25T08:02-03:00", more={"n": 2.0})
    del given["updatedAt"]
    record = checked(IDEAS, given)
    assert (record["id"], record["createdAt"], record["updatedAt"]) == ("7", "2025-06-25T11:02:00.000Z", None)
    assert json.dumps(record["more"]) == '{"n": 2}'
    assert checked(IDEAS, idea(1, createdAt="2025-06-25T11:02:00.000001Z"))["createdAt"].endswith(".000001Z")
    assert checked(SYSTEMS, system(1, port=3001.0))["port"] == 3001
    assert checked(LINKS, link(1, "3"))["idea_id"] == "3"


@pytest.mark.parametrize(
    "members",
    [
        {"description": "\u20ac" * 50_000},
        {"more": "x" * rules.MOST_BYTES},
        {"x" * rules.MOST_BYTES: 1},
        {f"member {number}": 1 for number in range(rules.MOST_EXTRA + 1)},
    ],
    ids=["text", "extra", "name", "members"],
)
def test_a_record_that_is_too_large_is_refused_as_a_whole(members: dict[str, Any]) -> None:
    with pytest.raises(BadRecord) as told:
        checked(IDEAS, idea(1, **members), "/ideas/7")
    [fault] = told.value.faults
    assert (fault.reason, fault.pointer, fault.value) == ("out_of_bounds", "/ideas/7", None)


def test_a_record_as_large_as_may_be_is_as_large_under_any_id() -> None:
    empty = checked(IDEAS, idea(1, more=""))
    left = rules.MOST_BYTES - len(json.dumps({**empty, "id": 0}, ensure_ascii=False, separators=(",", ":")).encode())
    largest = idea(1, more="x" * (left + len('"id":0,')))
    for number in ("1", str(2**63 - 1)):
        assert checked(IDEAS, {**largest, "id": number})["id"] == number
    with pytest.raises(BadRecord, match="128 KiB"):
        checked(IDEAS, {**largest, "more": f"{largest['more']}x"})


@pytest.mark.parametrize("tag", ["", " ", "two\nlines", "a\x7f"])
def test_tags_that_only_the_files_may_have_may_not_be_sent(tag: str) -> None:
    assert checked(IDEAS, idea(1, tags=[tag]))["tags"] == [tag]
    rules.require_sendable(IDEAS, {"tags": ["coleta"]})
    with pytest.raises(BadRecord) as told:
        rules.require_sendable(IDEAS, {"tags": ["coleta", tag]})
    assert [fault.pointer for fault in told.value.faults] == ["/tags"]


def test_a_value_that_nests_too_deep_to_be_shown_is_refused_all_the_same() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = {"a": deep}
    with pytest.raises(BadRecord, match="list of texts"):
        checked(IDEAS, idea(1, tags=deep))


def test_what_nests_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(BadRecord, match="deeper"):
        checked(IDEAS, idea(1, more=deep))


def test_words_are_found_by_their_beginnings_without_accents() -> None:
    text = "Exportação: a SUPERFÍCIE de opções, e-mail 12e5"
    assert rules.folded("ÀÇÃO é") == "acao e"
    assert rules.words("Opções, de opcoes!") == ["opcoes", "de"]
    assert rules.found(rules.words("export superf"), text)
    assert rules.found(rules.words("mail"), text)
    assert not rules.found(rules.words("portacao"), text)
    assert rules.query("Opções e") == "'opcoes':* & 'e':*"
    assert rules.query("…!".replace("…", ".")) == ""


# As the database has it


@pytest.fixture(scope="module")
def db(postgres: str) -> Any:
    schema.upgrade(postgres)
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(_STORABLE, max_size=200) | st.text("áÀçÕ e\u0301.-_/'1aZß—ªﬁ가", max_size=700))
def test_the_database_folds_and_parts_words_as_we_do(db: psycopg.Connection, text: str) -> None:
    found = db.execute("select ideas.folded(%s), tsvector_to_array(ideas.words(%s))", (text, text)).fetchone()
    assert found is not None
    folded, words = found
    assert folded == rules.folded(text)
    assert sorted(word[:500] for word in words) == sorted(rules.words(text))


def test_the_database_finds_what_we_find(db: psycopg.Connection) -> None:
    text = f"Exportação {'á' * 3_000} opções-de-compra https://b3.com.br/x?y=1"
    for search in ("exporta", "COMPRA de", "b3", "com br", "zz", "á" * 2_500, "x", "'", "ção"):
        query = rules.query(search)
        if query:
            [(there,)] = db.execute("select ideas.words(%s) @@ %s::tsquery", (text, query)).fetchall()
            assert there == rules.found(rules.words(search), text), search


def test_each_collection_is_a_table_of_the_database_with_its_columns_and_rules(db: psycopg.Connection) -> None:
    types = {Kind.TEXT_ID: "bigint", Kind.ID: "bigint", Kind.TAGS: "ARRAY", Kind.MOMENT: "timestamp with time zone"}
    for table, collection in BY_TABLE.items():
        rows = db.execute(
            "select column_name, data_type, is_nullable, is_identity, is_generated from information_schema.columns "
            "where table_schema = 'ideas' and table_name = %s order by ordinal_position",
            (table,),
        ).fetchall()
        columns = {name: (kind, nullable == "NO") for name, kind, nullable, _identity, _generated in rows}
        for field in collection.fields:
            kind, required = columns.pop(field.column)
            whole = "integer" if field.high < 2**31 else "bigint"
            assert kind == types.get(field.kind, whole if field.kind is Kind.WHOLE else "text"), (table, field)
            assert required == field.required
        assert columns == {"extra": ("jsonb", True), "search": ("tsvector", False)}
        assert [row[0] for row in rows if row[3] == "YES"] == ["id"]
        assert [row[0] for row in rows if row[4] == "ALWAYS"] == ["search"]
        checks = " ".join(
            text
            for (text,) in db.execute(
                "select pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass", (f"ideas.{table}",)
            )
        )
        for field in collection.fields:
            assert all(f"'{choice}'" in checks for choice in field.choices)
            if field.refers_to:
                assert f"FOREIGN KEY ({field.column}) REFERENCES ideas.{field.refers_to}" in checks
