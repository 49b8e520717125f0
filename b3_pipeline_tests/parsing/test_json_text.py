from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing import json_text
from b3_pipeline.parsing.json_text import Array, Json, Number, Object, child, decode, read_document, text_of
from b3_pipeline.parsing.records import FileRejected

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def plain(value: Json) -> Any:
    """The value as the standard library would give it."""
    if isinstance(value, Object):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, Array):
        return [plain(element) for element in value]
    return json.loads(value) if isinstance(value, Number) else value


def containers(value: Json) -> list[Object | Array]:
    if not isinstance(value, Object | Array):
        return []
    members = value.values() if isinstance(value, Object) else value
    return [value, *(inner for member in members for inner in containers(member))]


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_a_document_means_what_the_standard_library_says(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    document = decode(text.encode())
    assert plain(document.root) == value
    assert document.text == text


@given(VALUES, st.sampled_from([None, 1]))
def test_every_object_and_array_is_found_again_verbatim_in_the_document(value: Any, indent: int | None) -> None:
    document = decode(json.dumps(value, indent=indent).encode())
    for container in containers(document.root):
        assert text_of(container) in document.text
        assert json.loads(text_of(container)) == plain(container)


@given(st.binary(max_size=60) | TEXTS.map(str.encode) | VALUES.map(json.dumps).map(str.encode).map(lambda b: b[:-1]))
def test_any_bytes_are_a_document_or_rejected(data: bytes) -> None:
    try:
        document = decode(data)
    except FileRejected:
        return
    assert document.sha256 == hashlib.sha256(data).hexdigest()
    assert document.text.encode() == data.removeprefix(b"\xef\xbb\xbf") or document.text.encode("latin-1") == data


@pytest.mark.parametrize("literal", ["5.50", "1e999", "-0", "NaN", "-Infinity", "9" * 5000, "0." + "1" * 2000])
def test_a_number_keeps_the_literal_that_was_written(literal: str) -> None:
    assert decode(literal.encode()).root == Number(literal)


def test_a_byte_order_mark_is_no_part_of_the_text_but_of_the_hash() -> None:
    data = b"\xef\xbb\xbf{}"
    document = decode(data)
    assert document.text == "{}"
    assert document.sha256 == hashlib.sha256(data).hexdigest()


def test_latin_1_is_read_where_the_bytes_are_no_utf_8() -> None:
    assert decode('{"DÓLAR": "ação"}'.encode("latin-1")).root == {"DÓLAR": "ação"}


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert decode(rb'"\ud83d\ude00"').root == "😀"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"<html><body>502</body></html>", "not JSON"),
        (b'{"timestamp": "2025-10-09T09:00:00", "DI1": {"venc', "cut off"),
        (b'{"a": 1} {"b": 2}', "not JSON"),
        (b'{"a": "line\nbreak"}', "not JSON"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "'b' stands 2 times"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (rb'{"a": "\ud800"}', "half a character"),
        (rb'{"\udc00": 1}', "half a character"),
        ("1٣".encode(), "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_what_is_no_single_clear_document_is_rejected_with_a_sentence(data: bytes, said: str) -> None:
    with pytest.raises(FileRejected, match=said):
        decode(data)


def test_nesting_is_allowed_up_to_its_limit() -> None:
    depth = json_text.MAX_DEPTH
    assert text_of(decode(b"[" * depth + b"]" * depth).root) == "[" * depth + "]" * depth


def test_a_file_larger_than_any_capture_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_BYTES", 1 << 20)
    stream = io.BytesIO(b" " * (3 << 20))
    with pytest.raises(FileRejected, match="larger than 1 MiB"):
        read_document(stream)
    assert stream.tell() == (1 << 20) + 1


def test_a_pointer_escapes_what_would_end_a_name() -> None:
    assert child(child("", "a/b~c"), 0) == "/a~1b~0c/0"


@pytest.mark.parametrize(("data", "text"), [(b"null", "null"), (b"true", "true"), (b'"x y"', "x y"), (b"1.50", "1.50")])
def test_a_scalar_as_text_is_what_was_written_and_a_text_is_itself(data: bytes, text: str) -> None:
    assert text_of(decode(data).root) == text
