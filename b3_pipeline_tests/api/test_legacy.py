"""The legacy contract out of the tables: what the server before answered, to the byte, and past captures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.api.legacy import ROUTES, LegacyFront, Ours, Refused, Reply, asked_window, legacy_app
from b3_pipeline.loading.payloads import Found, payload, survey
from b3_pipeline.parsing.kinds import CAPTURE, COMPOSED, GAMMA, GAMMA_LEVELS
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import Window, to_utc
from b3_pipeline.shadow.writing import refresh
from b3_pipeline_tests.api import legacy_desk as desk

JSON = "application/json; charset=utf-8"
BEFORE = ("content-type", "access-control-allow-origin", "content-length")


def ask(db: QuestDB, *urls: str, method: str = "GET", **settings: Any) -> list[httpx2.Response]:
    """What the tables' side answers, one question after the other."""

    async def work() -> list[httpx2.Response]:
        async with desk.service(db.address, **settings) as service, desk.client(legacy_app(Ours(service))) as client:
            return [await client.request(method, url) for url in urls]

    return desk.run(work)


def timestamp(data: bytes) -> str:
    document = json.loads(data)
    return document.get("gammalevels", document)["timestamp"]


def shape(status: bytes) -> Any:
    document = json.loads(status)
    return list(document), {name: list(facts) for name, facts in document["arquivos"].items()}


def captures(folder: Path) -> list[Path]:
    """The captures of a folder that load."""
    found: list[Found] = [f for f in survey(folder) if f.payload and f.payload.kind is CAPTURE]
    paths = [f.payload.path for f in found if f.payload]
    return [path for path in paths if not path.name.endswith("20251009_090000.json")]  # cut off: no server can load it


@pytest.mark.parametrize("name", ["clean", "dirty"])
def test_every_recorded_capture_is_answered_as_the_server_before_did(
    db: QuestDB, home: Path, shared: Path, tmp_path: Path, name: str
) -> None:
    folder = shared / "data" / "legacy" / name
    desk.load_folder(db, home, folder)
    kept = {sha for (sha,) in db.query("select sha256 from b3_captures")}
    compared = different = as_received = 0
    for number, path in enumerate(captures(folder)):
        as_then = tmp_path / f"{number}"
        shutil.copytree(folder, as_then, ignore=shutil.ignore_patterns("historico", "*.json"))
        as_then.chmod(0o755)
        shutil.copy(path, as_then / "ultimo_dado.json")
        shutil.copy(folder / "gamma.json", as_then / "gamma.json")
        with desk.legacy_server(shared, as_then) as url, httpx2.Client(trust_env=False) as before:
            theirs = [before.get(url + route) for route in ROUTES]
        moments = [f"?em={timestamp(answer.content)}" for answer in theirs[:2]]
        urls = [f"{ROUTES[0]}{moments[0]}", f"{ROUTES[1]}{moments[1]}", ROUTES[2]]
        for route, was, now in zip(ROUTES, theirs, ask(db, *urls), strict=True):
            compared += 1
            if route == "/status":
                same = shape(was.content) == shape(now.content) and json.loads(now.content)["status"] == "ok"
            elif payload(as_then / f"{route[1:].replace('-', '_')}.json", CAPTURE).sha256 in kept:
                as_received += 1
                same = now.content == was.content and all(now.headers[h] == was.headers[h] for h in BEFORE)
            else:  # the same capture came before in another layout: that one stands
                same = json.dumps(now.json()) == json.dumps(was.json())
            different += not same or was.status_code != now.status_code
    print(f"{name}: {compared} captures × endpoints compared, {different} different ({as_received} to the byte)")
    assert (compared, different) == (len(captures(folder)) * 3, 0)
    assert as_received >= 3


def test_without_parameters_it_is_the_newest_capture_and_other_parameters_do_not_count(
    db: QuestDB, home: Path, shared: Path
) -> None:
    folder = shared / "data" / "legacy" / "clean"
    desk.load_documents(db, home, folder)
    latest = (folder / "ultimo_dado.json").read_bytes()
    answers = ask(db, "/ultimo-dado", "/ultimo-dado?x=1&callback=f", "/ultimo-dado?", "/gamma?_=17")
    assert [a.content for a in answers[:3]] == [latest] * 3
    assert answers[3].content == (folder / "gamma.json").read_bytes()
    assert {(a.status_code, a.headers["content-type"], a.headers["access-control-allow-origin"]) for a in answers} == {
        (200, JSON, "*")
    }


def test_a_capture_that_is_dated_ahead_of_now_is_not_the_newest_until_then(
    db: QuestDB, home: Path, shared: Path, tmp_path: Path
) -> None:
    recorded = (shared / "data" / "legacy" / "clean" / "ultimo_dado.json").read_bytes()
    ahead = desk.changed(recorded, timestamp="2026-10-13T09:00:32")
    soon = desk.changed(recorded, timestamp="2025-10-14T12:03:00")  # a clock that is three minutes ahead
    for number, data in enumerate((recorded, ahead)):
        desk.load_bytes(db, home, tmp_path / str(number) / "ultimo_dado.json", data, CAPTURE)
    found = ask(db, "/ultimo-dado", "/ultimo-dado?em=2026-10-13T09:00:32")
    assert [a.content for a in found] == [recorded, ahead]
    desk.load_bytes(db, home, tmp_path / "soon" / "ultimo_dado.json", soon, CAPTURE)
    assert ask(db, "/ultimo-dado")[0].content == soon
    assert ask(db, "/ultimo-dado", now=datetime(2026, 10, 13, 13, tzinfo=UTC))[0].content == ahead


def test_a_day_gives_its_last_capture_and_a_moment_its_own(
    db: QuestDB, home: Path, shared: Path, tmp_path: Path
) -> None:
    recorded = (shared / "data" / "legacy" / "clean" / "ultimo_dado.json").read_bytes()
    first, second = (desk.changed(recorded, timestamp=f"2025-10-13T{at}") for at in ("09:00:32", "21:30:05.250"))
    for data in (second, first):
        desk.load_bytes(db, home, tmp_path / "ultimo_dado.json", data, CAPTURE)
    expected = {
        "data=2025-10-13": second,  # 21:30 of that day in Brasília is the day after in UTC
        "data=2025-10-14": None,
        "em=2025-10-13T09:00:32": first,
        "em=2025-10-13+09:00:32": first,
        "em=2025-10-13%2009:00:32": first,
        "em=2025-10-13T12:00:32Z": first,
        "em=2025-10-13T14:00:32%2B02:00": first,
        "em=2025-10-13T14:00:32+02:00": first,
        "em=2025-10-13T09:00": first,
        "em=2025-10-13T09:00:32.5": None,
        "em=2025-10-13T21:30:05": second,
        "em=2025-10-13T21:30:05.25": second,
        "em=2025-10-13T21:30:05.2500001": second,
        "em=2025-10-13T21:30:05.26": None,
        "em=2025-10-13T12:00:32": None,
        "em=2025-10-13T09:00:33": None,  # nothing is carried forward
    }
    answers = ask(db, *(f"/ultimo-dado?{query}" for query in expected))
    for (query, wanted), answer in zip(expected.items(), answers, strict=True):
        assert (answer.status_code, answer.content if wanted else list(answer.json())) == (
            (200, wanted) if wanted else (404, ["erro"])
        ), query


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("data=13-10-2025", 400, "AAAA-MM-DD"),
        ("data=2025-02-30", 400, "AAAA-MM-DD"),
        ("data=", 400, "AAAA-MM-DD"),
        ("data", 400, "AAAA-MM-DD"),
        ("em=ontem", 400, "ISO 8601"),
        ("em=2025-10-13", 400, "ISO 8601"),
        ("em=2025-10-13T25:00:00", 400, "ISO 8601"),
        ("em=2025-10-13T09:00:00%2B99:99", 400, "ISO 8601"),
        ("em=2018-11-04T00:30:00", 400, "nunca existiu"),
        ("data=2025-10-13&data=2025-10-14", 400, "única vez"),
        ("data=2025-10-13&em=2025-10-13T09:00:00", 400, "única vez"),
        ("data=0001-01-01", 404, "não há captura"),
        ("data=9999-12-31", 404, "não há captura"),
        ("em=9999-12-31T23:59:59.999999-23:59", 404, "não há captura"),
        ("em=0001-01-01T00:00:00%2B23:59", 404, "não há captura"),
        ("data=2001-09-11", 404, "não há captura"),
        ("data=1971-01-01", 404, "não há captura"),
        ("data=2261-12-31", 404, "não há captura"),
        ("em=1971-01-01T00:00:00.000000001%2B14:00", 404, "não há captura"),
        ("em=2261-12-31T23:59-12:00", 404, "não há captura"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    db: QuestDB, home: Path, query: str, status: int, said: str
) -> None:
    for answer in ask(db, f"/ultimo-dado?{query}", f"/gamma?{query}"):
        assert answer.status_code == status
        assert list(answer.json()) == ["erro"]
        assert said in answer.json()["erro"]
        assert (answer.headers["content-type"], answer.headers["access-control-allow-origin"]) == (JSON, "*")


_TEXTS = st.one_of(
    st.text(),
    st.binary().map(lambda raw: raw.decode("latin-1")),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True),
    st.from_regex(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9][T +][0-2][0-9]:[0-5][0-9](:[0-9]{2}(\.[0-9]{0,10})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?"
    ),
)


@given(st.sampled_from(["data", "em"]), _TEXTS, st.booleans())
def test_no_text_whatever_breaks_the_question(name: str, text: str, quoted: bool) -> None:
    from urllib.parse import quote

    query = f"{name}={quote(text.encode('utf-8', 'surrogateescape')) if quoted else text}"
    found = outcome(query.encode("utf-8", "replace"))
    if isinstance(found, Reply):
        assert found.status in (400, 404)
        assert list(json.loads(found.body)) == ["erro"]
    else:
        assert found is not None
        assert found.start is not None
        assert found.end is not None
        assert found.start < found.end


def outcome(query: bytes) -> Window | Reply | None:
    try:
        return asked_window(query)
    except Refused as refused:
        return refused.answer


def test_a_moment_is_as_wide_as_it_is_written() -> None:
    start = to_utc(datetime(2025, 10, 13, 9))
    assert asked_window(b"em=2025-10-13T09:00:00") == Window(start, start.replace(second=1))
    assert asked_window(b"em=2025-10-13T09:00") == Window(start, start.replace(minute=1))
    assert asked_window(b"em=2025-10-13T09:00:00.000") == Window(start, start.replace(microsecond=1000))
    assert asked_window(b"x=1&y") is None


def test_a_folder_without_captures_is_what_a_missing_file_was(
    db: QuestDB, home: Path, shared: Path, tmp_path: Path
) -> None:
    with desk.legacy_server(shared, tmp_path) as url, httpx2.Client(trust_env=False) as before:
        theirs = [before.get(url + route) for route in (*ROUTES, "/nada", "/ultimo-dado/")]
    ours = ask(db, *ROUTES, "/nada", "/ultimo-dado/")
    assert [(a.status_code, a.json()) for a in ours] == [(a.status_code, a.json()) for a in theirs]
    assert [a.status_code for a in ours] == [404, 404, 200, 404, 404]


def test_a_head_is_a_get_without_its_body_and_other_methods_are_refused(db: QuestDB, home: Path, shared: Path) -> None:
    desk.load_documents(db, home, shared / "data" / "legacy" / "clean")
    got, headed = ask(db, "/ultimo-dado")[0], ask(db, "/ultimo-dado", method="HEAD")[0]
    assert (headed.status_code, headed.content, headed.headers) == (200, b"", got.headers)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        [refused] = ask(db, "/gamma", method=method)
        assert (refused.status_code, refused.headers["allow"], list(refused.json())) == (405, "GET, HEAD", ["erro"])


def test_the_live_source_takes_precedence_and_a_composed_capture_answers_only_where_there_is_no_other(
    db: QuestDB, home: Path, shared: Path, tmp_path: Path
) -> None:
    recorded = (shared / "data" / "legacy" / "clean" / "ultimo_dado.json").read_bytes()  # Monday 13, 09:00:32
    evening, next_day, saturday = (
        desk.changed(recorded, timestamp=at, fonte="composed")
        for at in ("2025-10-13T19:30:00", "2025-10-14T09:00:00", "2025-10-18T10:00:00")
    )
    desk.load_bytes(db, home, tmp_path / "ultimo_dado.json", recorded, CAPTURE)
    desk.load_bytes(db, home, tmp_path / "a" / COMPOSED.file, evening, COMPOSED)
    assert [a.content for a in ask(db, "/ultimo-dado", "/ultimo-dado?data=2025-10-13")] == [recorded, recorded]
    desk.load_bytes(db, home, tmp_path / "b" / COMPOSED.file, next_day, COMPOSED)
    assert ask(db, "/ultimo-dado")[0].content == next_day
    friday = desk.changed(recorded, timestamp="2025-10-17T09:00:00")
    desk.load_bytes(db, home, tmp_path / "c" / "ultimo_dado.json", friday, CAPTURE)
    desk.load_bytes(db, home, tmp_path / "d" / COMPOSED.file, saturday, COMPOSED)
    saturday_evening = datetime(2025, 10, 18, 22, tzinfo=UTC)
    questions = ("/ultimo-dado", "/ultimo-dado?data=2025-10-18", "/ultimo-dado?em=2025-10-13T19:30")
    answers = ask(db, *questions, now=saturday_evening)
    assert [a.content for a in answers] == [friday, saturday, evening]
    levels = (shared / "data" / "legacy" / "clean" / "gamma.json").read_bytes()
    live = levels.replace(b"6.700,00", b"6.710,00")
    desk.load_bytes(db, home, tmp_path / "gamma.json", levels, GAMMA)
    desk.load_bytes(db, home, tmp_path / GAMMA_LEVELS.file, live, GAMMA_LEVELS)
    assert ask(db, "/gamma")[0].content == live


def test_a_document_goes_out_with_its_byte_order_mark_and_in_its_own_encoding(
    db: QuestDB, home: Path, shared: Path, tmp_path: Path
) -> None:
    recorded = (shared / "data" / "legacy" / "clean" / "ultimo_dado.json").read_text("utf-8")
    for number, data in enumerate((b"\xef\xbb\xbf" + recorded.encode(), recorded.encode("latin-1"))):
        moved = data.replace(b"2025-10-13T", b"2025-10-%dT" % (14 + number))
        desk.load_bytes(db, home, tmp_path / "ultimo_dado.json", moved, CAPTURE)
        [answer] = ask(db, "/ultimo-dado", now=datetime(2025, 10, 15, 15, tzinfo=UTC))
        assert answer.content == moved


def test_a_document_that_does_not_prove_itself_goes_out_as_it_is_kept_and_says_so(
    db: QuestDB, home: Path, shared: Path
) -> None:
    desk.load_documents(db, home, shared / "data" / "legacy" / "clean")
    db.execute("update b3_captures set payload = '{\"gammalevels\": {}}' where endpoint = 'gamma'")
    db.wait_applied("b3_captures")
    [answer] = ask(db, "/gamma")
    assert (answer.status_code, answer.json()) == (200, {"gammalevels": {}})
    assert "not as it was received" in answer.headers["warning"]


def test_the_status_has_the_sizes_of_what_the_tables_give(
    db: QuestDB, home: Path, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "data" / "legacy" / "clean"
    desk.load_folder(db, home, folder)
    shadow = tmp_path / "shadow"
    assert all(report.ok for report in refresh(db, shadow))
    [answer] = ask(db, "/status")
    document = answer.json()
    assert document["status"] == "ok"
    assert {name: facts["tamanho"] for name, facts in document["arquivos"].items()} == {
        name: (shadow / name).stat().st_size for name in document["arquivos"]
    }
    assert len(document["arquivos"]) == 6
    assert document["ultima_atualizacao"] == max(f["modificado_em"] for f in document["arquivos"].values())
    assert datetime.fromisoformat(document["ultima_atualizacao"]).microsecond == 0


def test_a_month_that_changed_is_measured_again_and_the_others_are_not(
    db: QuestDB, home: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from b3_pipeline.api import legacy

    desk.load_folder(db, home, shared / "data" / "legacy" / "clean")
    measured: list[Any] = []
    real = legacy._text_bytes
    monkeypatch.setattr(legacy, "_text_bytes", lambda *args: measured.append(args[1:]) or real(*args))

    async def work() -> tuple[dict, int, dict, int]:
        async with desk.service(db.address) as service:
            sizes = legacy.Sizes(service)
            first, times = sizes.measure(), len(measured)
            copy = tmp_path / "ajustes_b3.csv"
            lines = (shared / "data" / "legacy" / "clean" / "ajustes_b3.csv").read_text().splitlines()
            copy.write_text("\n".join([lines[0], lines[1].replace(lines[1][:10], "14-10-2025")]) + "\n")
            desk.load(db, home, *[p for f in survey(tmp_path) if (p := f.loadable) and f.name == copy.name])
            return first, times, sizes.measure(), len(measured) - times

    first, times, second, again = desk.run(work)
    assert times > again == 1
    assert second.keys() == first.keys()
    assert second["ajustes_b3.csv"][0] > first["ajustes_b3.csv"][0]
    assert second["dxy_coleta.csv"] == first["dxy_coleta.csv"]


def test_without_questdb_it_is_the_last_known_with_its_age_or_a_clear_503(
    db: QuestDB, home: Path, shared: Path
) -> None:
    folder = shared / "data" / "legacy" / "clean"
    desk.load_documents(db, home, folder)

    async def work() -> list[httpx2.Response]:
        async with desk.service(db.address) as service, desk.client(legacy_app(Ours(service))) as client:
            known = await client.get("/ultimo-dado")
            gone = replace(db.address, pg_port=1)
            async with desk.service(gone) as away:
                service.store = away.store
                service.shared._shared_s = 0
                while "warning" not in (stale := await client.get("/ultimo-dado")).headers:
                    assert (stale.content, "age" in stale.headers) == (known.content, True)  # nobody knows yet
                return [known, stale, await client.get("/gamma")]

    known, stale, none = desk.run(work)
    assert stale.content == known.content
    assert stale.headers["warning"].startswith("110 - ")
    assert int(stale.headers["age"]) >= 0
    assert "warning" not in known.headers
    assert (none.status_code, list(none.json())) == (503, ["erro"])


def test_the_front_takes_the_legacy_routes_and_leaves_the_others_to_the_application(db: QuestDB, home: Path) -> None:
    from fastapi import FastAPI

    behind = FastAPI()

    @behind.get("/here")
    def here() -> str:
        return "here"

    async def work() -> list[httpx2.Response]:
        async with desk.service(db.address) as service:
            behind.state.legacy = legacy_app(Ours(service))
            async with desk.client(LegacyFront(behind)) as both, desk.client(LegacyFront(behind, alone=True)) as alone:
                return [await client.get(path) for client in (both, alone) for path in ("/here", "/gamma")]

    answers = desk.run(work)
    assert [a.status_code for a in answers] == [200, 404, 404, 404]
    assert "access-control-allow-origin" not in answers[0].headers
    assert answers[2].json() == {"erro": "rota desconhecida"}


def test_a_defect_is_an_error_of_the_contract_and_says_nothing_of_the_inside(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def fresh(self, path: str) -> None:
            return None

        async def answer(self, path: str, window: Window | None = None) -> Any:
            raise RuntimeError("/secret/path")

    async def work() -> httpx2.Response:
        async with desk.client(legacy_app(Broken())) as client:
            return await client.get("/gamma")

    answer = desk.run(work)
    assert (answer.status_code, answer.json()) == (500, {"erro": "erro interno"})
    assert "/secret/path" in caplog.text


def test_every_call_of_a_route_is_told_and_no_other(db: QuestDB, home: Path) -> None:
    told: list[str] = []

    async def work() -> None:
        async with desk.service(db.address) as service:
            app = legacy_app(Ours(service), lambda _scope, route: told.append(route))
            async with desk.client(app) as client:
                for path in ("/gamma", "/gamma", "/gamma?data=x", "/nada", "/status"):
                    await client.get(path)

    desk.run(work)
    assert told == ["/gamma", "/gamma", "/gamma", "/status"]
