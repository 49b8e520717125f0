from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from b3_pipeline.alerts import engine
from b3_pipeline.alerts.engine import Engine, Route, Rules, State
from b3_pipeline_tests.alerts.conftest import NOON, Clock, condition

RULES = Rules(group_s=5, hold_s=30, remind_s=3_600)


class Driven:
    """An engine with its clock; `told` gives what the channels were told since the last time."""

    def __init__(self, *routes: Route, rules: Rules = RULES) -> None:
        self.clock = Clock()
        self.engine = Engine(rules, routes or (Route("slack"),))

    def give(self, red: bool, name: str = "a", after: float = 0, **given: Any) -> None:
        self.clock.turn(after)
        self.engine.apply(condition(red, name, **given), self.clock.now())

    def told(self, channel: str = "slack", after: float = 5) -> list[list[str]]:
        """By message, event and name of its notices."""
        self.clock.turn(after)
        self.engine.advance(self.clock.now())
        found = []
        while message := self.engine.head(channel):
            found.append([f"{notice.event} {notice.alert.name}" for notice in message.notices])
            self.engine.done(channel, message.id)
        return found


def test_a_red_condition_opens_an_alert_once_and_a_green_one_closes_it_once() -> None:
    driven = Driven()
    for _ in range(3):
        driven.give(True, after=1)
    assert driven.told() == [["opened a"]]
    driven.give(True)
    assert driven.told(after=60) == []
    assert driven.engine.open() == {"ERROR": 1, "WARN": 0}
    driven.give(False)
    driven.give(False)
    assert driven.told(after=29) == []
    assert driven.told(after=1) == []
    assert driven.told() == [["recovered a"]]
    driven.give(False)
    assert driven.told(after=600) == []
    assert driven.engine.open() == {"ERROR": 0, "WARN": 0}


def test_green_alone_is_no_news() -> None:
    driven = Driven()
    driven.give(False)
    assert driven.told() == []
    assert driven.engine.version == 0, "nothing to save"


def test_what_repeats_is_counted_and_has_the_newest_words() -> None:
    driven = Driven()
    driven.give(True, what="1 key is missing.")
    driven.give(True, what="2 keys are missing.", at=NOON + timedelta(hours=1))
    alert = driven.engine.state.alerts["check:a"]
    assert (alert.count, alert.what, alert.since, alert.last_seen) == (
        2, "2 keys are missing.", NOON, NOON + timedelta(hours=1),
    )  # fmt: skip


def test_flapping_within_the_hold_time_is_one_alert() -> None:
    driven = Driven()
    driven.give(True)
    assert driven.told() == [["opened a"]]
    for _ in range(4):
        driven.give(False, after=10)
        driven.give(True, after=10)
        assert driven.told() == []
    assert driven.engine.state.alerts["check:a"].flaps == 4
    driven.give(False)
    driven.told(after=30)
    assert driven.told() == [["recovered a"]]


def test_red_after_the_hold_time_is_a_new_alert_also_when_nobody_looked_in_between() -> None:
    driven = Driven()
    driven.give(True)
    driven.give(False)
    driven.give(True, after=31)
    assert driven.told() == [["opened a", "recovered a", "opened a"]]


def test_alerts_of_a_few_seconds_go_as_one_message_to_each_channel() -> None:
    driven = Driven(Route("slack"), Route("email"))
    driven.give(True, "a")
    driven.give(True, "b", after=2)
    assert driven.told(after=2) == []
    assert driven.told(after=1) == [["opened a", "opened b"]]
    assert driven.told("email", after=0) == [["opened a", "opened b"]]
    driven.give(True, "c", after=5)
    assert driven.told() == [["opened c"]]


def test_a_group_that_is_too_long_to_read_is_several_messages_and_none_is_left_out() -> None:
    driven = Driven()
    for n in range(45):
        driven.give(True, str(n))
    messages = driven.told()
    assert [len(notices) for notices in messages] == [20, 20, 5]
    assert len({name for notices in messages for name in notices}) == 45


def test_channels_get_what_is_as_bad_as_they_want_and_only_recoveries_of_what_they_know() -> None:
    driven = Driven(Route("slack"), Route("pager", "ERROR"))
    driven.give(True, "small", severity="WARN")
    driven.give(True, "big", severity="ERROR")
    assert driven.told() == [["opened small", "opened big"]]
    assert driven.told("pager", after=0) == [["opened big"]]
    driven.give(False, "small")
    driven.give(False, "big")
    driven.told(after=30)
    assert driven.told() == [["recovered small", "recovered big"]]
    assert driven.told("pager", after=0) == [["recovered big"]]


def test_what_gets_worse_is_told_again_and_what_gets_better_is_not() -> None:
    driven = Driven(Route("slack"), Route("pager", "ERROR"))
    driven.give(True, severity="WARN")
    assert driven.told() == [["opened a"]]
    driven.give(True, severity="ERROR")
    assert driven.told() == [["escalated a"]]
    assert driven.told("pager", after=0) == [["escalated a"]]
    driven.give(True, severity="WARN")
    driven.give(True, severity="ERROR")
    assert driven.told() == []
    driven.give(False, severity="WARN")
    driven.told(after=30)
    assert driven.told() == [["recovered a"]]
    assert driven.told("pager", after=0) == [["recovered a"]]


def test_an_error_that_stays_is_told_again_after_hours_and_a_warning_is_not() -> None:
    driven = Driven()
    driven.give(True, "big")
    driven.give(True, "small", severity="WARN")
    driven.told()
    assert driven.told(after=3_590) == []
    driven.told(after=10)
    assert driven.told() == [["reminder big"]]
    assert driven.told(after=60) == []
    driven.give(False, "big")
    driven.clock.turn(3_600)
    assert driven.told() == []
    assert driven.told() == [["recovered big"]], "no reminder of what is right again"


def test_a_channel_is_never_told_of_its_own_failing() -> None:
    driven = Driven(Route("slack"), Route("email"))
    driven.give(True, "slack", kind="channel")
    assert driven.told() == []
    assert driven.told("email", after=0) == [["opened slack"]]


def test_the_same_condition_twice_changes_nothing() -> None:
    driven = Driven()
    red, green = condition(True, "a"), condition(False, "a")
    for given in (red, green, red, green, red):
        driven.engine.apply(given, driven.clock.now())
    driven.told(after=30)
    assert driven.told() == []
    assert driven.engine.open() == {"ERROR": 0, "WARN": 0}


def test_ids_are_remembered_for_long_and_not_for_ever() -> None:
    driven = Driven()
    first = condition(True, "a")
    driven.engine.apply(first, NOON)
    for _ in range(engine.REMEMBERED * 2):
        driven.engine.apply(condition(False, "b"), NOON)
    assert len(driven.engine.state.seen) <= engine.REMEMBERED
    driven.engine.apply(first, NOON)
    assert driven.engine.state.alerts["check:a"].count == 2, "forgotten; and a repeat does no harm"


def test_a_queue_is_bounded_and_says_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "QUEUE_LIMIT", 3)
    driven = Driven()
    for n in range(6):
        driven.give(True, str(n))
        driven.clock.turn(5)
        driven.engine.advance(driven.clock.now())
    queue = driven.engine.state.outbox["slack"]
    assert [message.notices[0].alert.name for message in queue] == ["3", "4", "5"]
    assert sum(message.lost for message in queue) == 3


def test_so_many_alerts_are_open_at_most(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(engine, "OPEN_LIMIT", 2)
    driven = Driven()
    for n in range(3):
        driven.give(True, str(n))
    assert driven.told() == [["opened 0", "opened 1"]]
    assert "check:2 is not told" in caplog.text


def test_a_channel_that_forgets_is_told_again_what_it_knew_and_is_not_over() -> None:
    driven = Driven(Route("alertmanager", "ERROR"))
    assert driven.engine.renewal("alertmanager", NOON) is None
    driven.give(True, "big")
    driven.give(True, "small", severity="WARN")
    renewal = driven.engine.renewal("alertmanager", NOON)
    assert renewal
    assert [(notice.event, notice.alert.name) for notice in renewal.notices] == [("renewed", "big")]


def test_the_state_survives_being_written_and_read() -> None:
    driven = Driven()
    driven.give(True, "a")
    driven.told()
    driven.give(True, "b")
    written = driven.engine.state.model_dump_json()
    again = Engine(RULES, [Route("slack")], State.model_validate_json(written))
    assert again.state == driven.engine.state
    driven.engine = again
    assert driven.told() == [["opened b"]]


def test_a_channel_that_is_configured_no_more_leaves_nothing_behind() -> None:
    driven = Driven(Route("slack"), Route("email"))
    driven.give(True, "slack", kind="channel")
    driven.give(True, "a")
    driven.clock.turn(5)
    driven.engine.advance(driven.clock.now())
    driven.engine = Engine(RULES, [Route("email")], driven.engine.state)
    driven.engine.start(driven.clock.now())
    assert [*driven.engine.state.outbox] == ["email"]
    driven.told("email", after=30)
    assert driven.told("email") == [["recovered slack"]]


def test_a_channel_that_still_fails_after_a_restart_is_no_recovery() -> None:
    driven = Driven(Route("email"))
    driven.give(True, "slack", kind="channel")
    driven.engine.start(driven.clock.now(), broken={"slack"})
    driven.told("email", after=30)
    assert driven.told("email") == []


def test_what_nobody_may_ever_repeat_ends_by_itself_and_is_not_said_to_be_right() -> None:
    driven = Driven(rules=Rules(group_s=5, hold_s=30, remind_s=10**9))
    driven.give(True, ends_after_s=3_600)
    assert driven.told() == [["opened a"]]
    assert driven.told(after=3_500) == []
    driven.told(after=100)
    assert driven.told() == [["ended a"]]
    assert driven.engine.open() == {"ERROR": 0, "WARN": 0}


def test_what_is_repeated_after_all_stays_until_it_is_right() -> None:
    driven = Driven(rules=Rules(group_s=5, hold_s=30, remind_s=10**9))
    driven.give(True, ends_after_s=3_600)
    driven.give(True)
    driven.give(True, ends_after_s=3_600)
    driven.told()
    assert driven.told(after=7_200) == []
    driven.give(False)
    driven.told(after=30)
    assert driven.told() == [["recovered a"]]
