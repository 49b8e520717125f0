"""Reading LowDB files: streamed, strict, and clear about what is no LowDB file."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b3_pipeline.lowdb import reading
from b3_pipeline.lowdb.model import Collection
from b3_pipeline.lowdb.reading import LowdbFile, collections_of
from b3_pipeline.parsing.records import FileRejected
from b3_pipeline_tests.lowdb.recorded import documentation, idea, link


def read(data: bytes | str, file: str = "ideas.json", only: Sequence[Collection] = ()) -> list[Any]:
    encoded = data.encode() if isinstance(data, str) else data
    return [e.value for e in LowdbFile(io.BytesIO(encoded), file, only or collections_of(file))]


def test_members_come_in_any_order_each_with_its_collection_place_and_text() -> None:
    document = {"nextLinkId": 4, "links": [link(1, "1"), link(2, "1")], "other": [[1.5]], "nextId": 9}
    whole = {**document, "files": [], "ideas": [idea(1)], "systems": []}
    file = LowdbFile(io.BytesIO(json.dumps(whole).encode()), "db.json", collections_of("db.json"))
    found = [(e.collection.table, e.pointer, json.loads(e.text)) for e in file]
    assert found == [
        ("documentation_links", "/links/0", link(1, "1")),
        ("documentation_links", "/links/1", link(2, "1")),
        ("documentation_ideas", "/ideas/0", idea(1)),
    ]
    assert (file.counters, file.ignored) == ({"nextLinkId": 4, "nextId": 9}, ["other"])


@settings(max_examples=60)
@given(st.lists(st.text() | st.integers() | st.floats(allow_nan=False) | st.none() | st.booleans(), max_size=8))
@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_wherever_a_block_ends_the_same_is_read(block: int, values: list[Any]) -> None:
    text = json.dumps({"ideas": [*values, {"a": values}, 12]}, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "BLOCK", block)
        assert read(f"\ufeff {text}\n") == json.loads(text)["ideas"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[]", "should stand here"),
        (b'{"ideas": [', "cut off"),
        (b'{"ideas": [{"id": "1"', "cut off"),
        (b'{"ideas": [{"id": "1"}', "cut off"),
        (b'{"ideas": []', "cut off"),
        (b'{"ideas": [] "x"', "should stand here"),
        (b'{"ideas": []} {}', "behind the end"),
        (b'{"ideas": {}}', "no list"),
        (b'{"ideas": null}', "no list"),
        (b"{}", "no list ideas"),
        (b'{"idea": []}', "no list ideas"),
        (b'{"ideas": [], "ideas": []}', "twice"),
        (b'{"ideas": [{"id": "1", "id": "2"}]}', "twice"),
        (b'{"ideas": [{"a": 01}]}', "not JSON"),
        (b'{"ideas": [{"a": "\n"}]}', "not JSON"),
        (b'{"ideas": [,]}', "not JSON"),
        (b"{ideas: []}", "should stand here"),
        ('{"ideas": ["ção"]}'.encode("latin-1"), "not UTF-8"),
        ('{"ideas": []}'.encode("utf-16"), "not UTF-8"),
        ('{"ideas": ["çã'.encode()[:-1], "not UTF-8"),
        (b'{"ideas": [' + b"[" * 100_000, "nested too deep"),
        (b'{"ideas": [' + b"9" * 5_000 + b"]}", "digits"),
        (b'{"ideas": [], "nextId": 1}', None),
    ],
)
def test_what_is_no_lowdb_file_is_rejected_with_a_reason(data: bytes, told: str | None) -> None:
    if told is None:
        assert read(data) == []
        return
    with pytest.raises(FileRejected, match=told):
        read(data)


@pytest.mark.parametrize("counter", ["0", "1.5", '"4"', "true", "null"])
def test_a_counter_that_is_none_rejects_the_file(counter: str) -> None:
    text = json.dumps(documentation())[:-1] + f', "nextId": {counter}}}'
    with pytest.raises(FileRejected, match="nextId is no whole number"):
        read(text, "db.json")


def test_a_value_without_an_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST", 1 << 20)
    with pytest.raises(FileRejected, match="a value has more than"):
        read(b'{"ideas": ["' + b"x" * (8 << 20) + b'"]}')


def test_a_large_file_is_read_in_bounded_memory() -> None:
    class Endless(io.RawIOBase):
        """A file of so many ideas, made while it is read."""

        left = 5_000
        rest = b'{"ideas": ['

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            while len(self.rest) < len(buffer) and self.left >= 0:
                more = json.dumps(idea(self.left + 1, description="x" * 5_000)) + "," if self.left else '"end"]}'
                self.rest += more.encode()
                self.left -= 1
            size = min(len(buffer), len(self.rest))
            buffer[:size], self.rest = self.rest[:size], self.rest[size:]
            return size

    tracemalloc.start()
    try:
        stream = io.BufferedReader(Endless(), 1 << 16)
        number = sum(1 for _ in LowdbFile(stream, "ideas.json", collections_of("ideas.json")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == 5_001
    assert peak < 12 << 20  # of some 25 MB
