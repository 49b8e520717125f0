from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.alerts import outbox, spool
from b3_pipeline.alerts.channels import Channel, Undelivered
from b3_pipeline.alerts.engine import Message, Rules
from b3_pipeline.alerts.outbox import STATE, Outbox, Pauses
from b3_pipeline_tests.alerts.conftest import Clock, Kept, condition

RULES = Rules(group_s=5, hold_s=30, remind_s=10**9)
PAUSES = Pauses(first_s=2, longest_s=60)


def opened(home: Path, clock: Clock, *channels: Channel, broken: dict[str, str] | None = None) -> Outbox:
    return Outbox(home, channels, RULES, clock.now, broken, PAUSES, clock.monotonic)


class Driven:
    """An outbox whose couriers work when the test says so."""

    def __init__(self, home: Path, *channels: Kept) -> None:
        self.clock = Clock()
        self.outbox = opened(home, self.clock, *channels)

    def give(self, red: bool, name: str = "a") -> bool:
        return self.outbox.take([condition(red, name)])

    def work(self, seconds: float = 5) -> None:
        """Time passes, what is due happens, couriers deliver what they can."""
        self.clock.turn(seconds)
        self.outbox.advance()
        for courier in self.outbox.couriers.values():
            while courier.turn() == 0:
                pass

    def tell_of_channels(self) -> None:
        self.outbox.take(self.outbox.conditions())


def test_every_channel_gets_an_opening_and_a_recovery_once(tmp_path: Path) -> None:
    one, two = Kept("one"), Kept("two")
    driven = Driven(tmp_path, one, two)
    for red in (True, True, False, False):
        driven.give(red)
        driven.work()
    driven.work(30)
    driven.work()
    assert one.events == two.events == ["opened a", "recovered a"]


def test_a_channel_that_is_down_is_tried_again_at_growing_pauses_and_gets_its_messages_in_order(tmp_path: Path) -> None:
    one, two = Kept("one", down=True), Kept("two")
    driven = Driven(tmp_path, one, two)
    tries: list[float] = []
    send = one.send

    def counted(message: Message) -> None:
        tries.append(driven.clock.seconds)
        send(message)

    with mock.patch.object(one, "send", counted):
        driven.give(True, "a")
        driven.work()
        driven.give(True, "b")
        for _ in range(300):
            driven.work(1)
        pauses = [later - earlier for earlier, later in pairwise(tries)]
        assert pauses[0] <= 3
        assert max(pauses) <= 61
        assert 5 < len(tries) < 40
        one.down = False
        driven.work(60)
    assert one.events == ["opened a", "opened b"] == two.events
    assert driven.outbox.channels() == {"one": {"up": True, "queued": 0}, "two": {"up": True, "queued": 0}}


def test_a_channel_that_fails_is_told_of_on_the_others_and_when_it_is_back(tmp_path: Path) -> None:
    one, two = Kept("one", down=True), Kept("two")
    driven = Driven(tmp_path, one, two)
    driven.give(True)
    for _ in range(20):
        driven.work(3)
        driven.tell_of_channels()
    assert two.events == ["opened a", "opened one"]
    assert "it is down" in two.got[1].notices[0].alert.what
    assert driven.outbox.channels()["one"] == {"up": False, "queued": 1}
    one.down = False
    for _ in range(40):
        driven.work(3)
        driven.tell_of_channels()
    assert two.events == ["opened a", "opened one", "recovered one"]
    assert one.events == ["opened a"]


def test_a_channel_that_reaches_not_everybody_is_a_warning_on_the_others_and_sends_nothing_twice(
    tmp_path: Path,
) -> None:
    part, other = Kept("part", wrong="1 of 2 recipients"), Kept("other")
    driven = Driven(tmp_path, part, other)
    driven.give(True)
    driven.work()
    driven.tell_of_channels()
    driven.work()
    driven.work()
    assert part.events == ["opened a"]
    assert other.events == ["opened a", "opened part"]
    alert = other.got[-1].notices[0].alert
    assert (alert.severity, "1 of 2 recipients" in alert.what) == ("WARN", True)
    part.wrong = None
    driven.give(True, "b")
    driven.work()
    driven.work()
    driven.tell_of_channels()
    driven.work(30)
    driven.work()
    driven.work()
    assert other.events[-1] == "recovered part"


def test_a_server_that_asks_to_be_left_alone_is(tmp_path: Path) -> None:
    one = Kept("one")
    driven = Driven(tmp_path, one)
    calls = []

    def busy(_message: Message) -> None:
        calls.append(driven.clock.seconds)
        raise Undelivered("429", wait_s=500)

    with mock.patch.object(one, "send", busy):
        driven.give(True)
        for _ in range(100):
            driven.work(10)
    assert len(calls) == 2


def test_a_message_that_a_server_never_takes_is_given_up_so_that_the_next_one_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = Kept("one", down=True, refuses=True)
    driven = Driven(tmp_path, one)
    driven.give(True, "a")
    while driven.outbox.head("one") or not caplog.records:
        driven.work(60)
    assert "is given up for one" in caplog.text
    one.down = False
    driven.give(True, "b")
    driven.work(60)
    driven.work(60)
    assert one.events == ["opened b"]


def test_a_channel_with_a_defect_is_a_failing_channel_and_its_words_are_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(_message: Message) -> None:
        raise KeyError("https://hooks.example.com/T000/secret")

    one, two = Kept("one"), Kept("two")
    driven = Driven(tmp_path, one, two)
    with mock.patch.object(one, "send", defect):
        driven.give(True)
        for _ in range(4):
            driven.work(30)
            driven.tell_of_channels()
        driven.work()
    assert "opened one" in two.events
    assert "secret" not in caplog.text
    assert "secret" not in repr(two.got)


def test_a_channel_that_hangs_is_told_of_too(tmp_path: Path) -> None:
    one, two = Kept("one"), Kept("two")
    driven = Driven(tmp_path, one, two)
    hung = []

    def hangs(_message: Message) -> None:
        driven.clock.turn(61)
        hung.append(driven.outbox.conditions())

    with mock.patch.object(one, "send", hangs):
        driven.give(True)
        driven.work()
    [[red]] = hung
    assert (red.name, red.red) == ("one", True)
    assert "on its way" in red.what


def test_a_channel_that_cannot_be_used_is_told_of_on_the_others(tmp_path: Path) -> None:
    one, clock = Kept("one"), Clock()
    box = opened(tmp_path, clock, one, broken={"slack": "B3_ALERT_SLACK_URL must be an address."})
    box.take(box.conditions())
    clock.turn(5)
    box.advance()
    box.couriers["one"].turn()
    assert one.events == ["opened slack"]
    assert not box.channels()["slack"]["up"]


def test_what_was_decided_survives_a_restart(tmp_path: Path) -> None:
    one = Kept("one", down=True)
    driven = Driven(tmp_path, one)
    driven.give(True)
    driven.work()
    one.down = False
    clock = Clock()
    again = opened(tmp_path, clock, one)
    again.couriers["one"].turn()
    assert one.events == ["opened a"]
    assert opened(tmp_path, clock, one).head("one") is None


def test_on_a_full_disk_alerts_go_out_and_conditions_are_kept_where_they_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_file: Path, _text: str) -> None:
        raise OSError(28, "No space left on device")

    one = Kept("one")
    driven = Driven(tmp_path, one)
    given = condition(True, "a")
    with monkeypatch.context() as patched:
        patched.setattr(outbox, "write_private", full)
        assert not driven.outbox.take([given])
        driven.work()
        assert one.events == ["opened a"]
        assert "No space left" in caplog.text
    assert driven.outbox.take([given]), "now it is safe"
    driven.work()
    assert one.events == ["opened a"]


def test_a_state_that_cannot_be_read_is_put_aside_and_alerts_go_on(tmp_path: Path) -> None:
    (tmp_path / STATE).parent.mkdir()
    for n in (1, 2):
        (tmp_path / STATE).write_text('{"alerts": {"check:a":')
        one = Kept("one")
        driven = Driven(tmp_path, one)
        assert (tmp_path / STATE).with_name(f"state.json.damaged-{n}").exists()
        driven.give(True)
        driven.work()
        assert one.events == ["opened a"]


def test_a_channel_that_forgets_is_told_again_and_again_until_it_is_over(tmp_path: Path) -> None:
    one = Kept("one", renew_s=100)
    driven = Driven(tmp_path, one)
    driven.work(200)
    assert one.events == []
    driven.give(True)
    driven.work()
    for _ in range(30):
        driven.work(10)
    assert one.events == ["opened a", "renewed a", "renewed a", "renewed a"]
    driven.give(False)
    driven.work(30)
    driven.work(100)
    driven.work(100)
    assert one.events[4:] == ["recovered a"]


def test_a_condition_that_breaks_the_engine_keeps_no_other_from_people(tmp_path: Path) -> None:
    one = Kept("one")
    driven = Driven(tmp_path, one)
    apply = driven.outbox._engine.apply

    def breaks(given: object, now: object) -> None:
        if given is bad:
            raise RuntimeError
        apply(given, now)  # pyright: ignore[reportArgumentType]

    bad = condition(True, "bad")
    with mock.patch.object(driven.outbox._engine, "apply", breaks):
        assert driven.outbox.take([bad, condition(True, "good")])
    driven.work()
    assert one.events == ["opened good"]


# Any sequence of conditions, outages and deaths


class Crash(BaseException):
    """The process is killed here."""


@contextmanager
def dying(target: object, name: str, after: bool) -> Iterator[None]:
    """Kills the process in a call: before it does anything, or after it has done it."""
    real: Callable[..., object] = getattr(target, name)

    def dies(*args: object) -> None:
        if after:
            real(*args)
        raise Crash

    with mock.patch.object(target, name, dies):
        yield


Step = Callable[["Deaths"], None]


class Deaths:
    """A monitor that is killed between any two steps, two channels that come and go; time passes meanwhile."""

    def __init__(self, home: Path) -> None:
        self.home, self.clock = home, Clock()
        self.channels = [Kept("one"), Kept("two")]
        self.applied: dict[str, tuple[str, float, bool]] = {}
        self.sent_then_died = 0
        self.restart()

    def restart(self) -> None:
        self.outbox = opened(self.home, self.clock, *self.channels)

    def put(self, *given: tuple[bool, str]) -> None:
        spool.put(self.home, [condition(red, name) for red, name in given])

    def take(self, dies: str = "") -> None:
        batch = spool.take(self.home)
        try:
            if dies == "before it is saved":
                with dying(outbox, "write_private", after=False):
                    self.outbox.take(batch.conditions)
            else:
                self.outbox.take(batch.conditions)
        except Crash:
            self.restart()
            return
        for one in batch.conditions:
            self.applied.setdefault(one.id, (one.name, self.clock.seconds, one.red))
        if dies == "after it is saved":
            self.restart()
        else:
            batch.remove()

    def advance(self, dies: bool = False) -> None:
        try:
            if dies:
                with dying(outbox, "write_private", after=False):
                    self.outbox.advance()
            else:
                self.outbox.advance()
        except Crash:
            self.restart()

    def deliver(self, n: int, dies: str = "") -> None:
        channel = self.channels[n]
        courier = self.outbox.couriers[channel.name]
        if not dies:
            courier.turn()
            return
        with dying(channel, "send", after=dies == "before it is noted"):
            before = len(channel.got)
            try:
                courier.turn()
            except Crash:
                self.restart()
            self.sent_then_died += len(channel.got) - before

    def all_is_well_again(self) -> None:
        self.restart()
        while spool.take(self.home).files:
            self.take()
        for channel in self.channels:
            channel.down = False
        for _ in range(3):
            self.clock.turn(61)
            self.advance()
            for courier in self.outbox.couriers.values():
                while courier.turn() == 0:
                    pass

    def check(self, channel: Kept) -> None:
        once = {message.id: message for message in channel.got}
        assert len(channel.got) - len(once) <= self.sent_then_died
        notices = [notice for message in once.values() for notice in message.notices]
        for name in "ab":
            assert [notice.event for notice in notices if notice.alert.name == name] == self.expected(name)

    def expected(self, name: str) -> list[str]:
        """By the rule itself: red opens, and half a minute of green ends it."""
        events: list[str] = []
        is_open, green_at = False, None
        for about, at, red in [*self.applied.values(), (name, self.clock.seconds, False)]:
            if about != name:
                continue
            if green_at is not None and at - green_at >= RULES.hold_s:
                events.append("recovered")
                is_open, green_at = False, None
            if red and not is_open:
                events.append("opened")
                is_open = True
            if is_open:
                green_at = None if red else at if green_at is None else green_at
        return events


def outage(deaths: Deaths, n: int, down: bool) -> None:
    deaths.channels[n].down = down


CONDITIONS = st.lists(st.tuples(st.booleans(), st.sampled_from("ab")), min_size=1, max_size=3)
WHICH = st.sampled_from([0, 1])
STEPS: st.SearchStrategy[Step] = st.one_of(
    CONDITIONS.map(lambda given: lambda d: d.put(*given)),
    st.sampled_from([10, 31]).map(lambda seconds: lambda d: d.clock.turn(seconds)),
    st.sampled_from(["", "before it is saved", "after it is saved"]).map(lambda dies: lambda d: d.take(dies)),
    st.booleans().map(lambda dies: lambda d: d.advance(dies)),
    st.tuples(WHICH, st.sampled_from(["", "before it is sent", "before it is noted"])).map(
        lambda given: lambda d: d.deliver(*given)
    ),
    st.tuples(WHICH, st.booleans()).map(lambda given: lambda d: outage(d, *given)),
)


@given(st.lists(STEPS, min_size=20, max_size=40))
def test_whenever_the_monitor_dies_each_channel_is_told_once_of_each_opening_and_recovery(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(prefix="b3-alerts-") as folder, mock.patch("os.fsync"):
        deaths = Deaths(Path(folder))
        for step in steps:
            step(deaths)
        deaths.all_is_well_again()
        for channel in deaths.channels:
            deaths.check(channel)
