"""Which side answers, and the comparison beside it: it finds what differs, and neither delays nor fails an answer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from b3_pipeline.api import switch as switching
from b3_pipeline.api.legacy import ROUTES, Ours, Reply, legacy_app, reply
from b3_pipeline.api.service import Service
from b3_pipeline.api.switch import (
    RULES,
    LegacyAway,
    LegacySide,
    Switch,
    UnknownRule,
    document_differences,
    judge,
    moment_of,
    rules,
)
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA_LEVELS
from b3_pipeline.postgres import callers, mismatches
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.api import legacy_desk as desk


class Side:
    """A legacy side with the bodies that it is given; one that is None, or not there, makes it be away."""

    def __init__(self, **bodies: bytes | None) -> None:
        self.bodies = {f"/{name.replace('_', '-')}": body for name, body in bodies.items()}
        self.asked = 0

    async def get(self, path: str) -> Reply:
        self.asked += 1
        body = self.bodies.get(path)
        if body is None:
            raise LegacyAway
        return reply(200, body)


class Time:
    """A clock that only a sleep moves; `when` are called at their seconds."""

    def __init__(self, **when: Callable[[], None]) -> None:
        self.now = 0.0
        self.when = {float(at.removeprefix("at_")): work for at, work in when.items()}

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at in [at for at in self.when if at <= self.now]:
            await asyncio.to_thread(self.when.pop(at))


@dataclass
class Running:
    """A switch at work, and a client of its routes."""

    service: Service
    switch: Switch
    client: httpx2.AsyncClient

    async def get(self, path: str) -> httpx2.Response:
        return await self.client.get(path)


@asynccontextmanager
async def running(
    db: QuestDB, side: LegacySide | None, phase: str, time: Time | None = None, **more: Any
) -> AsyncIterator[Running]:
    time = time or Time()
    async with desk.service(db.address, phase) as service:
        switch = Switch(service, Ours(service), side, clock=time, sleep=time.sleep, **more)
        async with desk.client(legacy_app(switch)) as client:
            try:
                yield Running(service, switch, client)
            finally:
                await switch.close()


@pytest.fixture
def clean(shared: Path) -> Path:
    return shared / "data" / "legacy" / "clean"


@pytest.fixture
def dsn(postgres: str) -> str:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop table if exists b3.payload_mismatches, b3.legacy_callers")
    return postgres


@pytest.fixture
def loaded(db: QuestDB, home: Path, clean: Path) -> QuestDB:
    desk.load_documents(db, home, clean)
    return db


def other_gamma(clean: Path) -> bytes:
    return (clean / "gamma.json").read_bytes().replace(b"6.700,00", b"6.701,00")


@pytest.mark.parametrize(
    ("phase", "legacy_answers"), [("legacy", True), ("shadow", True), ("active", False), ("frozen", False)]
)
def test_the_phase_says_which_side_answers(
    loaded: QuestDB, clean: Path, dsn: str, phase: str, legacy_answers: bool
) -> None:
    side = Side(gamma=other_gamma(clean))

    async def work() -> list[httpx2.Response]:
        async with running(loaded, side, phase) as desk_:
            return [await desk_.get("/gamma"), await desk_.get("/gamma"), await desk_.get("/gamma?x=1")]

    for answer in desk.run(work):
        assert (answer.content == other_gamma(clean)) is legacy_answers
        assert (answer.content == (clean / "gamma.json").read_bytes()) is not legacy_answers
        assert "x-b3-side" not in answer.headers
    assert (side.asked > 0) is legacy_answers


def test_a_change_of_phase_counts_from_the_next_request_on(loaded: QuestDB, clean: Path) -> None:
    async def work() -> list[bytes]:
        async with running(loaded, Side(gamma=other_gamma(clean)), "legacy") as desk_:
            bodies = []
            for phase in ("legacy", "active", "legacy"):
                desk_.service.flags = desk.phase(phase)
                bodies.append((await desk_.get("/gamma")).content)
            return bodies

    ours = (clean / "gamma.json").read_bytes()
    assert desk.run(work) == [other_gamma(clean), ours, other_gamma(clean)]


@pytest.mark.parametrize("phase", ["legacy", "shadow", "active", "frozen"])
def test_a_home_without_a_legacy_side_answers_itself_in_every_phase(loaded: QuestDB, clean: Path, phase: str) -> None:
    async def work() -> httpx2.Response:
        async with running(loaded, None, phase) as desk_:
            return await desk_.get("/gamma")

    answer = desk.run(work)
    assert answer.content == (clean / "gamma.json").read_bytes()
    assert "warning" not in answer.headers


def test_a_past_capture_is_ours_in_every_phase(loaded: QuestDB, clean: Path) -> None:
    side = Side(ultimo_dado=b"{}")

    async def work() -> list[httpx2.Response]:
        async with running(loaded, side, "shadow") as desk_:
            queries = ("data=2025-10-10", "em=2025-10-10T09:34:30", "data=1999-01-01", "em=x")
            return [await desk_.get(f"/ultimo-dado?{query}") for query in queries]

    day, moment, none, malformed = desk.run(work)
    past = (clean / "historico" / "ultimo_dado_20251010_093430.json").read_bytes()
    assert (day.content, moment.content) == (past, past)
    assert (none.status_code, malformed.status_code) == (404, 400)
    assert side.asked == 0


def test_the_folder_answers_as_its_server_would(loaded: QuestDB, shared: Path, clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "legacy"
    shutil.copytree(clean, folder)
    with desk.legacy_server(shared, folder) as url, httpx2.Client(trust_env=False) as before:
        theirs = [before.get(url + route) for route in ROUTES]

    async def work(**settings: Any) -> list[httpx2.Response]:
        async with desk.contract_client(loaded.address, "legacy", **settings) as client:
            return [await client.get(route) for route in ROUTES]

    for answer, was in zip(desk.run(lambda: work(legacy_dir=folder)), theirs, strict=True):
        assert (answer.status_code, answer.content) == (was.status_code, was.content)
    with desk.legacy_server(shared, folder) as url:
        for answer, was in zip(desk.run(lambda: work(legacy_url=url + "/")), theirs, strict=True):
            assert (answer.status_code, answer.content) == (was.status_code, was.content)
            assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("phase", ["legacy", "shadow"])
def test_while_the_legacy_side_is_away_ours_goes_out_and_says_so(
    loaded: QuestDB, clean: Path, tmp_path: Path, phase: str
) -> None:
    async def work(**settings: Any) -> list[httpx2.Response]:
        async with desk.contract_client(loaded.address, phase, **settings) as client:
            return [await client.get(route) for route in ROUTES]

    for settings in ({"legacy_dir": tmp_path / "nowhere"}, {"legacy_url": "http://127.0.0.1:1"}):
        answers = desk.run(lambda given=settings: work(**given))
        assert answers[0].content == (clean / "ultimo_dado.json").read_bytes()
        assert answers[1].content == (clean / "gamma.json").read_bytes()
        for answer in answers[:2]:
            assert answer.headers["x-b3-side"] == "tables"
            assert "legacy side away" in answer.headers["warning"]
    # a folder that is not there is one without files to /status, as it was to the server before
    assert [a.status_code for a in answers] == [200, 200, 200]


def test_a_legacy_side_that_is_away_is_not_asked_again_at_once(
    loaded: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "LEGACY_REST_S", 1_000)
    side = Side()

    async def work() -> list[int]:
        async with running(loaded, side, "legacy") as desk_:
            for route in (*ROUTES, *ROUTES):
                assert (await desk_.get(route)).status_code == 200
            asked = side.asked
            desk_.switch._read._shared_s = 0
            desk_.switch._rests_until.clear()
            await desk_.get("/gamma")
            return [asked, side.asked]

    assert desk.run(work) == [len(ROUTES), len(ROUTES) + 1]


def test_a_route_that_the_legacy_side_does_not_answer_takes_no_other_with_it(loaded: QuestDB, clean: Path) -> None:
    theirs = desk.changed((clean / "ultimo_dado.json").read_bytes(), fonte="elsewhere")

    async def work() -> list[httpx2.Response]:
        async with running(loaded, Side(ultimo_dado=theirs), "legacy") as desk_:
            return [await desk_.get(route) for route in ("/gamma", "/ultimo-dado")]

    gamma, newest = desk.run(work)
    assert (gamma.content, gamma.headers["x-b3-side"]) == ((clean / "gamma.json").read_bytes(), "tables")
    assert newest.content == theirs
    assert "x-b3-side" not in newest.headers


def test_a_file_that_cannot_be_read_is_one_that_is_not_there_as_it_was_to_the_server(
    db: QuestDB, home: Path, shared: Path, clean: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "legacy"
    folder.mkdir()
    (folder / "gamma.json").mkdir()
    shutil.copy(clean / "ultimo_dado.json", folder)
    with desk.legacy_server(shared, folder) as url, httpx2.Client(trust_env=False) as before:
        theirs = [before.get(url + route) for route in ROUTES]

    async def work() -> list[httpx2.Response]:
        async with desk.contract_client(db.address, "legacy", legacy_dir=folder) as client:
            return [await client.get(route) for route in ("/gamma", "/ultimo-dado", "/gamma", "/status")]

    gamma, newest, again, status = desk.run(work)
    was = dict(zip(ROUTES, theirs, strict=True))
    for answer in (gamma, again):
        assert (answer.status_code, answer.content) == (404, was["/gamma"].content)
    assert newest.content == was["/ultimo-dado"].content
    assert status.content == was["/status"].content


def test_a_folder_that_hangs_holds_up_nobody_for_longer_than_its_time(
    loaded: QuestDB, clean: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "gamma.json"
    os.mkfifo(pipe)  # to open it for reading waits until somebody writes
    shutil.copy(clean / "ultimo_dado.json", tmp_path)

    async def work() -> list[httpx2.Response]:
        async with desk.contract_client(loaded.address, "legacy", legacy_dir=tmp_path) as client:
            try:
                return [await client.get(route) for route in ("/gamma", "/ultimo-dado")]
            finally:
                os.close(os.open(pipe, os.O_RDWR))

    gamma, newest = desk.run(work)
    assert (gamma.content, gamma.headers["x-b3-side"]) == ((clean / "gamma.json").read_bytes(), "tables")
    assert newest.content == (clean / "ultimo_dado.json").read_bytes()
    assert "x-b3-side" not in newest.headers


def test_what_neither_side_has_is_what_the_legacy_side_says(db: QuestDB, home: Path, tmp_path: Path) -> None:
    async def work() -> httpx2.Response:
        async with desk.contract_client(db.address, "legacy", legacy_dir=tmp_path) as client:
            return await client.get("/gamma")

    answer = desk.run(work)
    assert (answer.status_code, answer.json()) == (404, {"erro": "gamma.json indisponível"})


def test_a_replayed_row_of_captures_in_shadow_has_no_mismatch(
    db: QuestDB, home: Path, clean: Path, tmp_path: Path, dsn: str
) -> None:
    """The legacy side has each capture first; ours follows some seconds later, as through a sensor."""
    recorded = (clean / "ultimo_dado.json").read_bytes()
    desk.load_documents(db, home, clean)
    side = Side(gamma=(clean / "gamma.json").read_bytes())
    days = [f"2025-10-{day}T09:00:{second:02}" for day in (14, 15, 16, 17) for second in (5, 31)]

    async def work() -> switching.Counts:
        time = Time()
        async with running(db, side, "shadow", time) as desk_:
            for number, at in enumerate(days):
                data = desk.changed(recorded, timestamp=at)
                side.bodies["/ultimo-dado"] = data
                arrives = tmp_path / str(number) / "ultimo_dado.json"
                time.when[time.now + 6] = lambda data=data, path=arrives: desk.load_bytes(db, home, path, data, CAPTURE)
                desk_.switch._read._shared_s = 0
                assert (await desk_.get("/ultimo-dado")).content == data
                assert (await desk_.get("/gamma")).status_code == 200
                await desk_.switch.settled()
            return desk_.switch.counts

    counts = desk.run(work)
    assert (counts.compared, counts.equal) == (2 * len(days), 2 * len(days))
    assert (counts.different, counts.missing, counts.dropped, counts.failed) == (0, 0, 0, 0)
    assert mismatches.latest(dsn) == []
    print(f"{len(days)} captures replayed in shadow: {counts.compared} answers compared, 0 mismatches")


def test_a_providers_document_of_the_very_same_second_is_not_what_the_legacy_one_is_compared_with(
    db: QuestDB, home: Path, clean: Path, tmp_path: Path, dsn: str
) -> None:
    desk.load_documents(db, home, clean)
    theirs = (clean / "gamma.json").read_bytes()
    desk.load_bytes(db, home, tmp_path / GAMMA_LEVELS.file, other_gamma(clean), GAMMA_LEVELS)

    async def work() -> tuple[switching.Counts, bytes]:
        async with running(db, Side(gamma=theirs), "shadow") as desk_:
            await desk_.get("/gamma")
            await desk_.switch.settled()
            return desk_.switch.counts, (await desk_.switch._ours.answer("/gamma")).body

    counts, ours = desk.run(work)
    assert (counts.compared, counts.equal) == (1, 1)
    assert json.loads(ours) == json.loads(other_gamma(clean))  # while readers of ours get the live source's


def test_a_planted_difference_is_found_kept_with_both_bodies_and_counted_once(
    loaded: QuestDB, clean: Path, dsn: str
) -> None:
    side = Side(gamma=other_gamma(clean))

    async def work() -> switching.Counts:
        async with running(loaded, side, "shadow") as desk_:
            desk_.switch._read._shared_s = 0
            for _time in range(3):
                assert (await desk_.get("/gamma")).content == other_gamma(clean)
                await desk_.switch.settled()
            return desk_.switch.counts

    counts = desk.run(work)
    assert (counts.different, counts.equal) == (3, 0)
    [kept] = mismatches.latest(dsn)
    assert (kept.endpoint, kept.count, kept.open) == ("gamma", 3, True)
    assert (kept.legacy, kept.ours) == (other_gamma(clean), (clean / "gamma.json").read_bytes())
    assert kept.differences == [
        {"pointer": "/gammalevels/ES_SP500/call_wall", "legacy": "6.701,00", "ours": "6.700,00", "what": "value"}
    ]
    assert mismatches.open_count(dsn) == 1


def test_a_capture_that_never_comes_is_missing_after_half_a_minute(loaded: QuestDB, clean: Path, dsn: str) -> None:
    newer = desk.changed((clean / "ultimo_dado.json").read_bytes(), timestamp="2025-10-14T09:00:00")
    time = Time()

    async def work() -> switching.Counts:
        async with running(loaded, Side(ultimo_dado=newer), "shadow", time) as desk_:
            await desk_.get("/ultimo-dado")
            await desk_.switch.settled()
            return desk_.switch.counts

    assert desk.run(work).missing == 1
    assert switching.MISSING_AFTER_S <= time.now <= switching.MISSING_AFTER_S + 1
    [kept] = mismatches.latest(dsn)
    assert (kept.legacy, kept.ours) == (newer, None)
    assert "no such capture" in kept.differences[0]["what"]


def test_an_answer_caught_while_its_file_was_being_written_is_no_mismatch(
    loaded: QuestDB, clean: Path, dsn: str
) -> None:
    whole = (clean / "gamma.json").read_bytes()
    side = Side(gamma=whole[:40])

    def finish() -> None:
        side.bodies["/gamma"] = whole

    async def work() -> switching.Counts:
        async with running(loaded, side, "shadow", Time(at_1=finish)) as desk_:
            await desk_.get("/gamma")
            await desk_.switch.settled()
            return desk_.switch.counts

    counts = desk.run(work)
    assert (counts.superseded, counts.different + counts.missing) == (1, 0)
    assert mismatches.latest(dsn) == []


def test_a_rule_explains_a_difference_which_then_is_kept_as_ignored(loaded: QuestDB, clean: Path, dsn: str) -> None:
    recorded = (clean / "ultimo_dado.json").read_bytes()
    other = desk.changed(recorded, fonte="elsewhere")

    async def work() -> switching.Counts:
        async with running(loaded, Side(ultimo_dado=other), "shadow", ignore=["key_order", "source"]) as desk_:
            await desk_.get("/ultimo-dado")
            await desk_.switch.settled()
            return desk_.switch.counts

    counts = desk.run(work)
    assert (counts.ignored, counts.different) == (1, 0)
    [kept] = mismatches.latest(dsn)
    assert (kept.ignored_by, kept.open) == (["source"], False)
    assert mismatches.open_count(dsn) == 0


def test_an_unknown_rule_is_refused_at_the_start_with_what_there_is() -> None:
    with pytest.raises(UnknownRule, match=r"'fonte'.*key_order"):
        rules(["key_order", "fonte"])
    assert rules(list(RULES)) == RULES
    assert all(rule.description for rule in RULES.values())


@pytest.mark.parametrize(
    ("rule", "legacy", "ours"),
    [
        ("key_order", b'{"a": {"b": 1, "c": 2}}', b'{"a": {"c": 2, "b": 1}}'),
        ("number_text", b'{"preco": "5.528,50"}', b'{"preco": 5528.5}'),
        ("absent", b'{"a": 1, "b": null, "c": ""}', b'{"a": 1}'),
        ("source", b'{"a": 1, "fonte": "x"}', b'{"a": 1}'),
    ],
)
def test_a_rule_explains_its_own_difference_and_no_other(rule: str, legacy: bytes, ours: bytes) -> None:
    assert judge("/gamma", legacy, ours, {}).ignored_by == ()
    assert judge("/gamma", legacy, ours, rules([rule])).ignored_by == (rule,)
    others = [name for name in RULES if name != rule]
    assert judge("/gamma", legacy, ours, rules(others)).ignored_by == ()
    beside = legacy.replace(b"}", b', "z": 9}', 1), ours.replace(b"}", b', "z": 8}', 1)
    verdict = judge("/gamma", *beside, rules([rule]))
    assert (bool(verdict.differences), verdict.ignored_by) == (True, ())


@pytest.mark.parametrize(
    ("legacy", "ours", "pointers"),
    [
        ('{"a": 1.50}', '{"a": 1.5}', []),
        ('{"a": 1}', '{"a": true}', ["/a"]),
        ('{"a": [1, 2]}', '{"a": [1]}', ["/a/1"]),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', [""]),
        ('{"a": null}', "{}", ["/a"]),
        ("{}", '{"a/b": 1}', ["/a~1b"]),
        ('{"a": {}}', '{"a": []}', ["/a"]),
        ('{"a": 1e999}', '{"a": 1e999}', []),
        ('{"a": NaN}', '{"a": NaN}', []),
    ],
)
def test_documents_are_compared_as_json_with_the_order_of_their_keys(
    legacy: str, ours: str, pointers: list[str]
) -> None:
    found = document_differences(switching.read_json(legacy.encode()), switching.read_json(ours.encode()))
    assert [difference.pointer for difference in found] == pointers


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": 1' + b"0" * 5_000 + b"}"])
def test_no_body_breaks_the_comparison(body: bytes) -> None:
    for path in ROUTES:
        assert judge(path, body, b'{"b": 2}', RULES).differences
        assert judge(path, b'{"b": 2}', body, RULES).differences
    assert moment_of("/ultimo-dado", body) is None
    assert moment_of("/gamma", body) is None


def test_the_status_is_compared_by_its_shape(db: QuestDB, home: Path, clean: Path, tmp_path: Path, dsn: str) -> None:
    desk.load_folder(db, home, clean)

    async def work(side: Side) -> switching.Counts:
        async with running(db, side, "shadow") as desk_:
            for _time in range(2):
                desk_.switch._read._shared_s = 0
                await desk_.get("/status")
                await desk_.switch.settled()
            return desk_.switch.counts

    folder = tmp_path / "legacy"
    shutil.copytree(clean, folder)
    good = desk.run(lambda: switching.LegacyFolder(folder).get("/status")).body
    assert desk.run(lambda: work(Side(status=good))).equal == 2
    other = json.loads(good)
    other["ultima_atualizacao"] = "2025-10-13T12:00:00Z"
    planted = desk.run(lambda: work(Side(status=json.dumps(other).encode())))
    assert planted.different == 2
    [kept] = mismatches.latest(dsn)
    assert (kept.endpoint, kept.count) == ("status", 2)
    assert [d["pointer"] for d in kept.differences] == ["/ultima_atualizacao"]


def test_a_comparison_neither_delays_nor_fails_an_answer(
    loaded: QuestDB, clean: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_given: object) -> None:
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(switching, "judge", broken)

    async def work() -> tuple[list[httpx2.Response], switching.Counts]:
        held = asyncio.Event()

        async def sleep(_seconds: float) -> None:
            await held.wait()

        side = Side(gamma=other_gamma(clean), ultimo_dado=b'{"timestamp": "2025-10-14T09:00:00"}')
        async with desk.service(loaded.address, "shadow") as service:
            switch = Switch(service, Ours(service), side, sleep=sleep)
            async with desk.client(legacy_app(switch)) as client:
                answers = [await client.get(path) for path in ("/gamma", "/ultimo-dado")]  # the second one is held
                held.set()
                await asyncio.wait_for(switch._comparing[next(k for k in switch._comparing if k[0] == "/gamma")], 30)
                await switch.close()
                return answers, switch.counts

    answers, counts = desk.run(work)
    assert [a.status_code for a in answers] == [200, 200]
    assert counts.failed == 1
    assert "a defect of ours" in caplog.text


def test_comparisons_are_bounded_and_what_is_dropped_is_counted(
    loaded: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "COMPARING", 2)
    held = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await held.wait()

    async def work() -> switching.Counts:
        side = Side()
        async with desk.service(loaded.address, "shadow") as service:
            switch = Switch(service, Ours(service), side, sleep=sleep)
            for body in (b"1", b"2", b"2", b"3", b"1"):  # one that is at it already is none more
                switch.compare(side, "/gamma", body)
            await switch.close()
            return switch.counts

    assert desk.run(work).dropped == 1


def test_a_mismatch_waits_for_postgresql(loaded: QuestDB, clean: Path, dsn: str) -> None:
    async def work() -> None:
        time = Time()
        async with running(loaded, Side(gamma=other_gamma(clean)), "shadow", time) as desk_:
            desk_.service.postgres_dsn = "postgresql://u:x@127.0.0.1:1/x"

            def back() -> None:
                desk_.service.postgres_dsn = dsn

            time.when[20.0] = back
            keep = desk_.switch._keep

            async def again(found: mismatches.Found) -> None:
                with pytest.raises(mismatches.MismatchesError):
                    mismatches.record(desk_.service.postgres_dsn or "", found)
                await keep(found)

            desk_.switch._keep = again
            await desk_.get("/gamma")
            await desk_.switch.settled()
            assert desk_.switch.counts.failed == 0

    desk.run(work)
    assert len(mismatches.latest(dsn)) == 1


def test_in_the_other_phases_nothing_is_compared(loaded: QuestDB, clean: Path, dsn: str) -> None:
    async def work(phase: str) -> int:
        async with running(loaded, Side(gamma=other_gamma(clean)), phase) as desk_:
            await desk_.get("/gamma")
            await desk_.switch.settled()
            return desk_.switch.counts.compared

    assert [desk.run(lambda phase=phase: work(phase)) for phase in ("legacy", "active", "frozen")] == [0, 0, 0]
    assert mismatches.latest(dsn) == []


def test_the_contract_counts_its_callers(loaded: QuestDB, dsn: str) -> None:
    async def work() -> None:
        async with desk.contract_client(loaded.address, "active") as client:
            for _time in range(3):
                await client.get("/gamma", headers={"user-agent": "planilha/1.0"})

    desk.run(work)
    [caller] = callers.recent(dsn, desk.NOW.date())
    assert (caller.address, caller.agent, caller.route, caller.count) == ("127.0.0.1", "planilha/1.0", "/gamma", 3)
    assert caller.first_at == caller.last_at == desk.NOW
