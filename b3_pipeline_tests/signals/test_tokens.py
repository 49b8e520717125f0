"""Sealing: whatever may be a token is gone from the document, and all else is as it was."""

from __future__ import annotations

import base64
import json
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.errors import UsageError
from b3_pipeline.parsing.json_text import Array, decode
from b3_pipeline.postgres.vault import Vault, VaultError, open_vault
from b3_pipeline.signals.hiding import HIDDEN, sealed
from b3_pipeline.signals.tokens import Sealer, rotate_keys, token_keys
from b3_pipeline_tests.signals.exports import BOT, OTHER, SIGNAL, TOKEN, empty_vault

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")  # the same in every pytest-xdist worker


@pytest.fixture
def vault(postgres: str) -> Iterator[Vault]:
    empty_vault(postgres)
    with open_vault(postgres, lambda: [KEY]) as opened:
        yield opened
    empty_vault(postgres)


def seal(vault: Vault, *records: object) -> Any:
    result = Sealer(vault)(json.dumps(records).encode(), "token")
    assert result.fault is None
    return json.loads(result.data)


def test_equal_tokens_of_a_bot_have_one_reference_and_others_have_others(vault: Vault) -> None:
    same, again, changed, elsewhere = (
        r["token"] for r in seal(vault, BOT, {**BOT, "status": "x"}, {**BOT, "token": OTHER}, {**BOT, "id": "bot-2"})
    )
    assert same == again
    assert len({same, changed, elsewhere}) == 3
    assert same.startswith("vault:bot-1:")
    assert elsewhere.startswith("vault:bot-2:")
    assert [vault.reveal(r) for r in (same, changed, elsewhere)] == [TOKEN, OTHER, TOKEN]


def test_the_placeholder_of_old_exports_is_a_token_like_any(vault: Vault) -> None:
    [record] = seal(vault, {**BOT, "token": "redacted", "description": "redacted"})
    assert vault.reveal(record["token"]) == "redacted"
    assert record["description"] == "redacted"


def test_a_reference_that_is_known_stays_and_one_that_is_not_is_a_token(vault: Vault) -> None:
    [first] = seal(vault, BOT)
    [again, made_up] = seal(vault, first, {**BOT, "token": "vault:bot-1:00"})
    assert again == first
    assert vault.reveal(made_up["token"]) == "vault:bot-1:00"


@pytest.mark.parametrize("odd", ["vault:\x00", "\x00", "x" * 100_000, "vault:" + "x" * 100_000])
def test_a_token_or_an_id_of_any_text_can_be_kept(vault: Vault, odd: str) -> None:
    [first, second] = seal(vault, {**BOT, "token": odd}, {**BOT, "id": odd})
    assert vault.reveal(first["token"]) == odd
    assert vault.reveal(second["token"]) == TOKEN


@pytest.mark.parametrize("absent", [None, "", " ", "-", "N/A"])
def test_no_token_is_none(vault: Vault, absent: str | None) -> None:
    assert seal(vault, {**BOT, "token": absent}) == [{**BOT, "token": absent}]


@pytest.mark.parametrize("odd", [7310000001, True, [TOKEN], {"value": TOKEN}])
def test_a_token_of_another_type_is_hidden_and_still_of_another_type(vault: Vault, odd: object) -> None:
    [record] = seal(vault, {**BOT, "token": odd})
    assert record["token"] == [HIDDEN]


@pytest.mark.parametrize(
    "record",
    [
        TOKEN,
        [TOKEN],
        {**BOT, "description": f"was {TOKEN}, is {OTHER}"},
        {**BOT, "id": TOKEN},
        {**BOT, TOKEN: 1},
        {**BOT, "Token": "abc-def-ghi-jkl", "botSecret": {"x": ["abc-def-ghi-jkl"]}},
        {**BOT, "token": "abc-def-ghi-jkl", "username": "@abc-def-ghi-jkl"},
        {**BOT, "more": {"deep": [{"x": OTHER}]}},
    ],
)
def test_no_token_is_left_anywhere_in_a_record(vault: Vault, record: object) -> None:
    text = json.dumps(seal(vault, record))
    assert not any(token in text for token in (TOKEN, OTHER, "abc-def-ghi-jkl"))


def test_a_token_is_hidden_in_the_records_of_other_bots_too(vault: Vault) -> None:
    odd, longer = "abc-def-ghi-jkl", "abc-def-ghi-jkl-mno"
    first, second, third = seal(
        vault,
        {**BOT, "description": f"as {longer}"},
        {**BOT, "id": "bot-2", "token": odd},
        {**BOT, "id": f"x{odd}", "token": longer, "more": [{odd: odd}]},
    )
    assert first["description"] == f"as {HIDDEN}"
    assert (third["id"], third["more"]) == (f"x{HIDDEN}", [{HIDDEN: HIDDEN}])
    assert [vault.reveal(r["token"]) for r in (first, second, third)] == [TOKEN, odd, longer]


def test_without_a_member_of_their_own_all_texts_of_records_lose_tokens_and_nothing_else(vault: Vault) -> None:
    records = [{**SIGNAL, "rawMessage": f"use {TOKEN}\nnow", "": OTHER, BARE: 1}, f"x {TOKEN}", [OTHER], 1, None]
    result = Sealer(vault)(json.dumps(records).encode(), "")
    assert json.loads(result.data) == [
        {**SIGNAL, "rawMessage": f"use {HIDDEN}\nnow", "": HIDDEN, HIDDEN: 1},
        f"x {HIDDEN}",
        [HIDDEN],
        1,
        None,
    ]


@pytest.mark.parametrize("member", ["", "token"])
def test_a_document_without_tokens_is_the_same_to_the_byte(vault: Vault, member: str) -> None:
    data = b' [ {"id":"x", "n": 1.50, "u": "\\u00e7" } ]\n'
    assert Sealer(vault)(data, member).data == data


def test_digits_without_end_are_looked_at_once() -> None:
    text = "1" * 200_000
    assert sealed(Array([text]), "", lambda _bot, _token: "") == [text]


def test_all_else_is_as_it_was(vault: Vault) -> None:
    document = '[{"token": null, "n": 1.50, "big": 1e999, "x": [true, null, {"é": "\\u00e7\\n\\""}]}, null]'
    result = Sealer(vault)(document.encode(), "token")
    assert decode(result.data).root == decode(document.encode()).root


@pytest.mark.parametrize("cut", [b'{"bots": 1}', b"[1", b'[{"token": "a", "token": "b"}]', b'"x"', b"\xff\xfe"])
def test_what_is_no_list_of_records_is_encrypted_whole(vault: Vault, cut: bytes) -> None:
    result = Sealer(vault)(cut, "token")
    assert result.fault
    assert "encrypted" in result.fault
    assert cut not in result.data
    assert Sealer(vault).open(result.data) == cut


def test_the_reason_of_a_broken_file_quotes_nothing_of_it(vault: Vault) -> None:
    fault = Sealer(vault)(
        json.dumps([BOT])[:-1].encode() + f', {{"{TOKEN}": 1, "{TOKEN}": 2}}]'.encode(), "token"
    ).fault
    assert fault
    assert "stands 2 times" in fault
    assert TOKEN not in fault


BARE = f"7310000003:{'A' * 35}"
TEXTS = st.sampled_from([TOKEN, OTHER, f"x{TOKEN}y", "a", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just("token"), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(VALUES, max_size=4))
def test_no_list_whatever_keeps_a_token(records: list[Any]) -> None:
    root = decode(json.dumps(records).encode()).root
    assert isinstance(root, Array)
    kept: list[str] = []
    result = sealed(root, "token", lambda bot, token: kept.append(token) or f"vault:{bot}:x")
    text = json.dumps(result)
    assert TOKEN not in text
    assert OTHER not in text
    assert len(result) == len(records)


def test_the_homes_key_is_made_once_and_private(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("B3_TOKEN_KEY", raising=False)
    assert token_keys(bare_home) == token_keys(bare_home)
    assert stat.S_IMODE((bare_home / "secrets" / "token_key").stat().st_mode) == 0o600


def test_keys_of_the_environment_come_first_and_leave_the_home_alone(
    bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_TOKEN_KEY", f"{KEY}=, {KEY}")
    assert token_keys(bare_home) == [f"{KEY}=", KEY]
    assert not bare_home.exists()


@pytest.mark.parametrize("wrong", ["hunter2", ",", "ü" * 43, KEY[:-1], f"{KEY},hunter2"])
def test_a_wrong_key_is_a_sentence_that_does_not_show_it(
    bare_home: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("B3_TOKEN_KEY", wrong)
    with pytest.raises(UsageError, match="B3_TOKEN_KEY") as failed:
        token_keys(bare_home)
    assert "hunter2" not in str(failed.value)


def test_rotation_changes_the_homes_key_and_no_reference(
    bare_home: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("B3_TOKEN_KEY", raising=False)
    empty_vault(postgres)
    with open_vault(postgres, lambda: token_keys(bare_home)) as vault:
        before = seal(vault, BOT)
        copy = Sealer(vault)(b"[broken", "token").data
    [old] = token_keys(bare_home)
    assert rotate_keys(bare_home, postgres) == 3  # the token, and the keys of the fingerprints and of copies
    [new] = token_keys(bare_home)
    assert new != old
    with open_vault(postgres, lambda: [new]) as vault:
        assert seal(vault, BOT) == before
        assert Sealer(vault).open(copy) == b"[broken"
    with open_vault(postgres, lambda: [old]) as vault, pytest.raises(VaultError):
        vault.reveal(before[0]["token"])


def test_rotation_with_keys_of_the_environment_encrypts_with_the_first(
    bare_home: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_vault(postgres)
    new = secrets.token_urlsafe(32)
    with open_vault(postgres, lambda: [KEY]) as vault:
        [record] = seal(vault, BOT)
    monkeypatch.setenv("B3_TOKEN_KEY", new)
    with pytest.raises(UsageError, match="one key"):
        rotate_keys(bare_home, postgres)
    monkeypatch.setenv("B3_TOKEN_KEY", f"{new},{KEY}")
    rotate_keys(bare_home, postgres)
    with open_vault(postgres, lambda: [new]) as vault:
        assert vault.reveal(record["token"]) == TOKEN
