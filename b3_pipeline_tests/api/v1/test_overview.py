"""The overview over what is loaded: its figures are the tables', and it is made once for all who ask the same."""

from __future__ import annotations

import asyncio
import gzip
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from b3_pipeline.api.sharing import Shared
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.v1 import overview as overview_module
from b3_pipeline.api.v1.front import OverviewFront
from b3_pipeline.api.v1.models import Overview
from b3_pipeline.api.v1.overview import Board, Slowly, overview
from b3_pipeline.postgres.mismatches import MismatchesError
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline_tests.api.v1.conftest import Api, Away


@pytest.fixture(scope="module")
def document(api: Api) -> Overview:
    return Overview.model_validate(api.get("overview"))


def test_every_expiry_of_every_instrument_is_in_it(api: Api, document: Overview, loaded: tuple[Path, Address]) -> None:
    with QuestDB(loaded[1]) as db:
        stored = db.query(
            "select instrument, contract_month, price_settlement from b3_adjustments where feed = 'b3_sprd'"
        )
    assert len(stored) > 100
    assert {(s.instrument, s.contract_month, s.price) for s in document.settlements} == set(stored)


def test_the_figures_on_top_are_the_tables(document: Overview, loaded: tuple[Path, Address]) -> None:
    with QuestDB(loaded[1]) as db:
        prices = {
            f"{name.lower()}_settlement": (price, previous)
            for name, price, previous in db.query(
                "select instrument, price_settlement, price_prev from b3_adjustments "
                "where feed = 'b3_sprd' and contract_month = 'X25' and instrument in ('DOL', 'DI1', 'DDI')"
            )
        }
        rates = dict(db.query("select indicator, value from b3_indicators_daily where feed = 'b3_indicators'"))
        index = db.scalar("select value from b3_dxy_ticks order by ts desc limit 1")
    found = {one.id: one for one in document.kpis}
    assert {name: (found[name].value, found[name].previous) for name in prices} == prices
    assert {found[name].contract_month for name in prices} == {"X25"}
    assert found["selic"].value == rates["taxa_selic"]
    assert found["sofr"].value == rates["taxa_sofr"]
    assert found["clean_dollar"].value == rates["dolar_cupom_limpo"]
    assert found["casada"].value == rates["dif_oper_casada"]
    assert found["dxy"].value == index
    assert [one.id for one in document.kpis] == [
        "dol_settlement",
        "di1_settlement",
        "ddi_settlement",
        "selic",
        "sofr",
        "clean_dollar",
        "casada",
        "dxy",
    ]


def test_each_figure_says_of_when_it_is_how_old_and_whether_it_should_be_newer(document: Overview) -> None:
    dollar = next(one for one in document.kpis if one.id == "dol_settlement")
    assert (dollar.at, dollar.session) == (datetime(2025, 10, 13, 22, 30, tzinfo=UTC), date(2025, 10, 13))
    assert (dollar.age_s, dollar.feed, dollar.fresh) == (16.5 * 3600, "b3_sprd", True)
    assert dollar.due == datetime(2025, 10, 14, 23, 30, tzinfo=UTC)
    assert dollar.change == pytest.approx((dollar.value or 0) - (dollar.previous or 0))


def test_the_curve_of_the_last_session_is_beside_that_of_the_one_before(document: Overview) -> None:
    assert document.di_curve is not None
    assert document.di_curve_before is not None
    assert (document.di_curve.session, document.di_curve_before.session) == (date(2025, 10, 13), date(2025, 10, 10))
    expiries = [point.expiry for point in document.di_curve.points]
    assert expiries == sorted(set(expiries))
    assert len(expiries) > 20
    assert all(5 < point.rate < 25 for point in (*document.di_curve.points, *document.di_curve_before.points))


def test_the_surface_is_the_newest_sessions_of_the_feed_that_takes_precedence(document: Overview) -> None:
    assert document.surface is not None
    assert (document.surface.feed, document.surface.updated_at) == ("b3_vol_xlsx", date(2025, 10, 13))
    assert document.surface.deltas == [1, 5, 10, 25, 37, 50, 63, 75, 90, 95, 99]
    assert document.surface.tenors[:3] == ["nov-25", "dez-25", "jan-26"]
    assert len(document.surface.values) == len(document.surface.tenors)
    assert all(len(row) == 11 for row in document.surface.values)


def test_the_index_has_a_point_for_each_bucket_up_to_now(document: Overview) -> None:
    assert document.dxy.session == date(2025, 10, 14)
    buckets = [point.bucket for point in document.dxy.points]
    assert (buckets[0], buckets[-1]) == ("dxy_08h50", "dxy_11h55")
    assert len(buckets) == len(set(buckets)) == 38
    assert document.dxy.points[0].at == datetime(2025, 10, 14, 11, 50, tzinfo=UTC)


def test_each_table_says_how_it_stands_and_where_dagster_shows_it(document: Overview) -> None:
    found = {one.table: one for one in document.datasets}
    assert len(found) == 8
    assert found["b3_dxy_ticks"].fresh is True
    assert found["b3_dxy_ticks"].age_s == 300
    assert found["b3_gamma_levels"].fresh is None
    assert found["b3_adjustments"].dagster_url == f"{document.dagster_url}/assets/b3_adjustments"
    assert found["b3_adjustments"].source == "B3, boletim de preços, arquivos legados"


def test_the_page_is_given_the_same_document(api: Api, document: Overview) -> None:
    assert api.client.portal is not None
    found = api.client.portal.call(overview, api.service)
    assert found.settlements == document.settlements
    assert found.kpis == document.kpis


def test_one_document_goes_to_all_who_ask_within_the_same_moment(api: Api) -> None:
    api.later()
    first = api.client.get("/api/v1/overview")
    assert api.service.shared.fresh("overview") is not None
    document = api.service.shared.fresh("overview")
    assert api.client.get("/api/v1/overview").content == first.content
    assert api.service.shared.fresh("overview") is document
    api.later(0.25)
    assert api.service.shared.fresh("overview") is None


def test_the_tag_stays_while_only_the_ages_grow(loaded: tuple[Path, Address], api: Api) -> None:
    first = api.client.get("/api/v1/overview")
    now = api.service.settings.now
    assert now is not None
    api.service.settings.now = datetime(2025, 10, 14, 15, 0, 30, tzinfo=UTC)
    try:
        api.later()
        later = api.client.get("/api/v1/overview")
    finally:
        api.service.settings.now = now
        api.later()
    assert later.json()["at"] == "2025-10-14T15:00:30Z"
    assert later.json()["kpis"][0]["age_s"] == first.json()["kpis"][0]["age_s"] + 30
    assert later.headers["etag"] == first.headers["etag"]
    assert first.headers["etag"].startswith('W/"')


@pytest.mark.parametrize("given", ["{tag}", '"another", {tag}', "{strong}", "*"])
def test_who_has_it_is_told_so_in_every_form_of_saying_it(api: Api, given: str) -> None:
    tag = api.client.get("/api/v1/overview").headers["etag"]
    text = given.format(tag=tag, strong=tag.removeprefix("W/"))
    assert api.client.get("/api/v1/overview", headers={"If-None-Match": text}).status_code == 304


def test_it_is_compressed_for_those_who_take_it_so(api: Api) -> None:
    plain = api.client.get("/api/v1/overview", headers={"Accept-Encoding": "identity"})
    with api.client.stream("GET", "/api/v1/overview", headers={"Accept-Encoding": "gzip, br"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert "content-encoding" not in plain.headers
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(packed) == plain.content
    assert len(packed) < len(plain.content) / 4


def test_the_short_way_answers_what_the_route_answers(api: Api) -> None:
    front = TestClient(OverviewFront(api.client.app, lambda: api.service), raise_server_exceptions=False)
    front.portal = api.client.portal  # the service's connections belong to its loop
    for headers in ({}, {"Accept-Encoding": "identity"}, {"If-None-Match": "*"}):
        short, long = (c.get("/api/v1/overview", headers=headers) for c in (front, api.client))
        assert (short.status_code, short.content) == (long.status_code, long.content)
        assert dict(short.headers) == dict(long.headers)
    assert front.get("/api/v1/overview?x=1").status_code == 400
    assert front.post("/api/v1/overview").status_code == 405
    assert front.get("/api/v1/dxy", params={"limit": 1}).json() == api.get("dxy", limit=1)
    store, known = api.service.store, api.service.shared
    api.service.store, api.service.shared = Away(), Shared(StoreAway)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        away = front.get("/api/v1/overview")
    finally:
        api.service.store, api.service.shared = store, known
    assert (away.status_code, away.headers["content-type"]) == (503, "application/problem+json")


def test_no_secret_is_in_it(api: Api) -> None:
    text = api.client.get("/api/v1/overview").text
    assert str(api.service.settings.home) not in text
    assert api.service.postgres_dsn is not None
    assert api.service.postgres_dsn not in text


def test_mismatches_that_nobody_could_ever_count_are_none_and_nobody_waits_for_them_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers = [], [MismatchesError("away"), 3, MismatchesError("away")]

    async def ask() -> int:
        asked.append(1)
        answer = answers[len(asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(api.service, "mismatches", ask)
    monkeypatch.setattr(overview_module, "MISMATCHES_S", 1_000)
    board = Board(api.service)

    async def story() -> list[int | None]:
        found = [await board.mismatches(), await board.mismatches()]
        assert len(asked) == 1
        found += [await board._count_mismatches(), await board._count_mismatches()]  # PostgreSQL comes, and goes again
        return found

    assert asyncio.run(story()) == [None, None, 3, 3]


def test_what_may_be_old_is_given_at_once_and_asked_for_beside() -> None:
    passed, answers, gate = [0.0], iter(range(10)), asyncio.Event()

    async def ask() -> int:
        await gate.wait()
        return next(answers)

    async def story() -> None:
        slowly = Slowly(ask, 5, lambda: passed[0])
        gate.set()
        assert await slowly.get() == 0
        assert await slowly.get() == 0
        passed[0] = 6
        gate.clear()
        assert await slowly.get() == 0  # at once, though the new one is not there
        gate.set()
        while await slowly.get() == 0:
            await asyncio.sleep(0)
        assert await slowly.get() == 1

    asyncio.run(story())


def test_what_cannot_be_asked_keeps_its_last_answer_and_the_first_failure_is_told() -> None:
    passed, failing = [0.0], [True]

    async def ask() -> int:
        if failing[0]:
            raise OSError("away")
        return 1

    async def story() -> None:
        slowly = Slowly(ask, 5, lambda: passed[0])
        with pytest.raises(OSError, match="away"):
            await slowly.get()
        failing[0] = False
        assert await slowly.get() == 1
        passed[0], failing[0] = 6, True
        assert await slowly.get() == 1
        await asyncio.sleep(0)
        assert await slowly.get() == 1

    asyncio.run(story())
