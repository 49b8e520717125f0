"""Signals that are handed in: judged as those of files are, archived once, and never with a token."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.parsing.kinds import SIGNALS as KIND
from b3_pipeline.parsing.kinds import TP_KINDS
from b3_pipeline.parsing.records import Reason
from b3_pipeline.parsing.tp_capital import parse_lines
from b3_pipeline.signals import intake
from b3_pipeline.signals.active import SIGNALS
from b3_pipeline.signals.intake import BadBatch, Judged, judged, keep, read
from b3_pipeline.sources.archive import Archive
from b3_pipeline_tests.signals.exports import SIGNAL, TOKEN

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


def body(*signals: object) -> bytes:
    return json.dumps(list(signals), indent=1).encode()


def outcomes(*signals: object, stored: list[dict] | None = None) -> list[tuple[str, Reason | None, str | None]]:
    found = judged(read(body(*signals)), stored or [])
    return [(one.outcome, one.reason, one.pointer) for one in found]


def test_each_signal_is_judged_by_the_rules_of_the_files(shared: Path) -> None:
    for folder in ("clean", "dirty"):
        data = (shared / "data/lowdb" / folder / TP_KINDS[0].file).read_bytes()
        expected = json.loads((shared / "data/lowdb" / folder / "EXPECTED.json").read_bytes())["tables"][SIGNALS.name]
        found = judged(read(data), [])
        counts = {name: sum(one.outcome == name for one in found) for name in ("accepted", "duplicate", "rejected")}
        assert counts == {"accepted": expected["loaded"], **{n: expected[n] for n in ("duplicate", "rejected")}}


def test_what_is_wrong_is_named_by_a_pointer_into_what_was_given() -> None:
    wrong = {**SIGNAL, "buyMin": -1}
    assert outcomes(SIGNAL, wrong, None, "text") == [
        ("accepted", None, None),
        ("rejected", Reason.OUT_OF_BOUNDS, "/1/buyMin"),
        ("rejected", Reason.BAD_TEXT, "/2"),
        ("rejected", Reason.BAD_TEXT, "/3"),
    ]
    [alone] = judged(read(json.dumps(wrong).encode()), [])
    assert alone == Judged("rejected", Reason.OUT_OF_BOUNDS, "/buyMin")


def test_of_one_key_the_first_stands_the_stored_one_before_all() -> None:
    other = {**SIGNAL, "stop": 0.1}
    conflict = ("rejected", Reason.CONFLICTING_DUPLICATE)
    assert outcomes(SIGNAL, SIGNAL, other) == [
        ("accepted", None, None),
        ("duplicate", None, None),
        (*conflict, "/2"),
    ]
    [stored] = read(body(other)).rows
    assert outcomes(SIGNAL, other, stored=[dict(stored)]) == [(*conflict, "/0"), ("duplicate", None, None)]


@pytest.mark.parametrize(
    "given", [b"", b"{", b"[]", b'"text"', b"3", b'{"a": 1, "a": 2}', b"[" * 100, body(*[1] * 1001)]
)
def test_what_is_no_signal_and_no_list_is_refused_without_a_word_of_it(given: bytes) -> None:
    with pytest.raises(BadBatch):
        read(given)


def test_a_refusal_quotes_no_token() -> None:
    with pytest.raises(BadBatch) as refused:
        read(f'{{"{TOKEN}": 1, "{TOKEN}": 2}}'.encode())
    assert TOKEN not in str(refused.value)


def test_the_accepted_ones_are_archived_as_lines_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    batch = read(body(SIGNAL, None, {**SIGNAL, "asset": "ABEVK122", "rawMessage": f"de {TOKEN}"}))
    found = judged(batch, [])
    assert [keep(archive, batch, found, NOW) for _ in range(2)] == [1, 1]
    another = read(body({**SIGNAL, "asset": "PETR4"}))
    assert keep(archive, another, judged(another, []), NOW) == 2
    assert keep(archive, batch, found, NOW) == 1
    entry = archive.entry(KIND.name, 1)
    assert entry is not None
    content = archive.read(entry)
    chunk = next(parse_lines(io.BytesIO(content), SIGNALS))
    assert (chunk.candidates, chunk.records.column("asset").to_pylist()) == (2, ["ITUBX36", "ABEVK122"])
    assert TOKEN.encode() not in content
    nothing = read(body(None))
    assert keep(archive, nothing, judged(nothing, []), NOW) is None


@pytest.mark.parametrize("colon", [":", "%3A", "%3a", "%253A"])
def test_a_token_within_an_address_is_hidden(colon: str) -> None:
    number, _, rest = TOKEN.partition(":")
    [kept] = read(body({**SIGNAL, "rawMessage": f"https://example.org/bot{number}{colon}{rest}/getMe"})).lines
    assert rest.encode() not in kept


def test_a_key_that_nobody_could_ask_for_is_rejected() -> None:
    wrong = [{**SIGNAL, name: "a" * 101} for name in ("channel", "signalType", "asset")]
    assert outcomes(*wrong, {**SIGNAL, "asset": "a" * 100}) == [
        ("rejected", Reason.BAD_TEXT, "/0/channel"),
        ("rejected", Reason.BAD_TEXT, "/1/signalType"),
        ("rejected", Reason.BAD_TEXT, "/2/asset"),
        ("accepted", None, None),
    ]


def test_a_request_may_have_a_thousand_signals() -> None:
    every = [{**SIGNAL, "asset": f"AAAA{number}"} for number in range(intake.MOST)]
    assert {one.outcome for one in judged(read(body(*every)), [])} == {"accepted"}
