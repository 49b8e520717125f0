"""The rules of the gates, and which is asked when."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from b3_pipeline.alerts.engine import Alert
from b3_pipeline.capture_differences import Comparison, Difference
from b3_pipeline.cutover import evidence, gates, phases
from b3_pipeline.cutover.gates import WHAT_TO_DO
from b3_pipeline.errors import UsageError
from b3_pipeline.postgres.callers import Caller
from b3_pipeline.quality.freshness import FeedAge, Freshness

NOW = datetime(2025, 10, 14, 11, tzinfo=UTC)
SESSION = date(2025, 10, 13)
TENOR = "/superficie_volatilidade/jan-30"
MOMENT = Difference("/timestamp", "2025-10-13T09:00:32", "2025-10-13T09:00:00", "expected")


def report(ok: bool = True, keys: int = 10, at: datetime | None = NOW, **wrong: int) -> dict[str, Any]:
    numbers = {"source_keys": keys, "missing": 0, "extra": 0, "different": 0} | wrong
    return {
        "ok": ok,
        "at": at and at.isoformat(),
        "tables": {"b3_dxy_ticks": {"legacy_csv": numbers}},
        "payloads": {"compared": 2, "different": 0},
        "errors": [] if ok else ["b3_dxy_ticks, parity_legacy_csv: `b3 validate --repair`."],
    }


def comparison(*differences: Difference, session: date = SESSION, sha256: str = "a") -> Comparison:
    return Comparison(NOW, session, sha256, "ours", 54, differences)


def test_every_gate_of_a_step_can_be_looked_at_and_says_what_to_do() -> None:
    for domain, steps in phases.STEPS.items():
        asked = {name for step in steps.values() for name in step.gates}
        assert asked == set(evidence.LOOKS[domain]) == set(WHAT_TO_DO[domain])


def test_no_step_asks_less_than_the_one_before_it() -> None:
    asked = [set(step.gates) for step in phases.STEPS["market"].values()]
    assert all(before < after for before, after in pairwise(asked))


def test_a_domain_without_steps_is_said_to_have_none() -> None:
    with pytest.raises(UsageError, match="is none"):
        phases.steps_of("stocks")


@pytest.mark.parametrize(
    ("given", "ok", "said"),
    [
        (report(), True, "10 keys of 1 feeds and 2 documents"),
        (report(at=NOW - timedelta(minutes=60)), True, "10 keys"),
        (report(at=NOW - timedelta(minutes=61)), False, "too old"),
        (report(at=NOW + timedelta(hours=1)), False, "too old"),
        (report(at=None), False, "Nothing was validated"),
        (report(ok=False), False, "parity_legacy_csv"),
        (report(keys=0), False, "nothing to compare"),
        (report(missing=1), False, "1 keys are not what"),  # forgiven by a tolerance
        (report(extra=2), False, "2 keys are not what"),
        (report(different=3), False, "3 keys are not what"),
        (None, False, "Nothing was validated"),
    ],
)
def test_parity_counts_for_an_hour_and_must_be_of_something(given: Any, ok: bool, said: str) -> None:
    verdict = gates.parity(given, NOW)
    assert verdict.ok is ok
    assert said in verdict.found


@pytest.mark.parametrize(
    ("session", "captures", "made", "ok", "said"),
    [
        (SESSION, {"a"}, [comparison(MOMENT)], True, "1 captures compared, 54 fields"),
        (SESSION, {"a", "b"}, [comparison(MOMENT)], False, "1 legacy captures were not compared"),
        (SESSION, {"a"}, [comparison(MOMENT, Difference("/DI1/preco", "1", "2", "different"))], False, "/DI1/preco"),
        (SESSION, {"a"}, [comparison(MOMENT, Difference("/DI1", "1", None, "missing"))], False, "/DI1"),
        (SESSION, {"a"}, [comparison(MOMENT, Difference("/DI1/x", None, "1", "extra"))], False, "/DI1/x"),
        (SESSION, {"a"}, [comparison(MOMENT, Difference(f"{TENOR}/mes", None, "1", "extra"))], True, "none differs"),
        (SESSION, {"a"}, [comparison(MOMENT, Difference(f"{TENOR}/mes", "1", None, "missing"))], False, TENOR),
        (SESSION, {"a"}, [comparison(MOMENT, session=date(2025, 10, 10))], False, "none was compared"),
        (SESSION, set(), [], False, "no legacy capture came"),
        (None, set(), [comparison(MOMENT)], False, "No full session"),
        (SESSION, {"a"}, [comparison()], False, "none was compared"),  # of one moment: our own, come back
        (SESSION, {"a", "own"}, [comparison(MOMENT), comparison(sha256="own")], True, "1 captures compared"),
        (SESSION, {"a"}, [comparison(Difference("/DI1/preco", "1", "2", "different"))], False, "/DI1/preco"),
        (SESSION, {"a"}, [comparison(Difference("/DI1/preco", "1,0", "1", "expected"))], False, "none was compared"),
    ],
)
def test_comparisons_are_of_a_full_session_and_of_every_capture_in_it(
    session: date | None, captures: set[str], made: list[Comparison], ok: bool, said: str
) -> None:
    verdict = gates.comparisons(session, captures, made)
    assert verdict.ok is ok
    assert said in verdict.found


def test_a_torn_capture_is_named_and_not_waited_for() -> None:
    verdict = gates.comparisons(SESSION, {"a"}, [comparison(MOMENT)], ["ultimo_dado.json of 12:00:00 UTC"])
    assert verdict.ok
    assert verdict.found.endswith("none differs. Torn: ultimo_dado.json of 12:00:00 UTC.")


def test_a_mismatch_that_is_open_is_red_and_so_is_a_route_that_was_not_compared() -> None:
    asked = "legacy routes were compared just now."
    assert gates.mismatches(0, 3, 3) == (True, f"No open mismatches of payloads; 3 of 3 {asked}")
    assert gates.mismatches(1, 3, 3) == (False, f"1 open mismatch of payloads; 3 of 3 {asked}")
    assert gates.mismatches(0, 2, 3) == (False, f"No open mismatches of payloads; 2 of 3 {asked}")
    assert not gates.mismatches(0, 0, 0).ok


def test_a_table_that_is_late_is_red_and_so_is_nobody_who_collects() -> None:
    due = NOW.replace(tzinfo=None)
    late = Freshness(1, due, 0.0, (FeedAge("yahoo_dxy", None, due, due),))
    good = Freshness(1, due, 0.0, (FeedAge("yahoo_dxy", due, due, due),))
    assert gates.freshness({"b3_dxy_ticks": good, "b3_snapshots": Freshness(0, None, None)}).ok
    assert gates.freshness({"b3_dxy_ticks": late}) == (False, "Late: b3_dxy_ticks.")
    assert not gates.freshness({"b3_snapshots": Freshness(0, None, None)}).ok


def test_an_archive_with_entries_that_wait_is_red_and_so_is_an_empty_one() -> None:
    assert gates.archive({"gamma": {"behind": 0}}).ok
    assert "gamma by 2 entries" in gates.archive({"gamma": {"behind": 2}}).found
    assert not gates.archive({}).ok


def test_an_open_error_is_red_and_so_is_nobody_who_looks() -> None:
    texts = {"kind": "check", "name": "x", "severity": "ERROR", "what": "x is red", "what_to_do": "", "link": "/"}
    alert = Alert.model_validate(texts | dict.fromkeys(("since", "opened", "reminded", "last_seen"), NOW))
    assert gates.alerts([], watched=True).ok
    assert "x is red" in gates.alerts([alert], watched=True).found
    assert "Nobody watches" in gates.alerts([], watched=False).found


@pytest.mark.parametrize(("hours", "ok"), [(23, True), (24, True), (25, False), (0, True), (-1, False)])
def test_a_backup_counts_for_a_day(hours: int, ok: bool) -> None:
    assert gates.backup(("b", NOW - timedelta(hours=hours)), NOW).ok is ok


def test_no_verified_backup_is_red() -> None:
    assert gates.backup(None, NOW) == (False, "There is no verified backup.")


def test_the_legacy_side_must_have_gone_on_for_a_full_session() -> None:
    assert gates.legacy_files(SESSION, {"gamma": True, "ultimo_dado": True}).ok
    assert "nothing came of gamma" in gates.legacy_files(SESSION, {"gamma": False, "ultimo_dado": True}).found
    assert not gates.legacy_files(SESSION, {}).ok
    assert "No full session" in gates.legacy_files(None, {}).found


def test_a_caller_is_named_with_address_agent_and_route() -> None:
    caller = Caller(SESSION, "10.0.0.5", "old-sheet/1", "/gamma", 1234, NOW, NOW)
    verdict = gates.callers(SESSION, [caller])
    assert not verdict.ok
    assert "10.0.0.5 (old-sheet/1) /gamma 1,234 times" in verdict.found
    assert gates.callers(SESSION, []).ok


def test_of_many_things_the_first_are_named_and_the_others_counted() -> None:
    verdict = gates.schema({f"table_{n}": ["the table is missing"] for n in range(9)})
    assert "table_2: the table is missing … and 6 more." in verdict.found
    assert not gates.last_session(SESSION, 0, []).ok
    assert not gates.last_session(SESSION, 5, ["b3_dxy_ticks, parity: x"]).ok
    assert gates.last_session(SESSION, 5, []).ok
