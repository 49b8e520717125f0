"""The routes over what is loaded; each defect of the original's replacement (ANCHORS) is a test here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.api.service import PAGES
from b3_pipeline.api.v1 import listing, routes
from b3_pipeline.parsing.months import year_and_month
from b3_pipeline.postgres.flags import DEFAULTS, Current, Entry
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline_tests.api.silent import line_to, silent_port
from b3_pipeline_tests.api.v1.conftest import NOW, Api, Away, opened, pages, settings_of
from b3_pipeline_tests.waiting import until

DELTAS = [1, 5, 10, 25, 37, 50, 63, 75, 90, 95, 99]
LISTS = (
    "snapshots",
    "indicators",
    "indicators/daily",
    "vol-surface",
    "gamma-levels",
    "adjustments",
    "dxy",
    "loads",
    "signals",
)


def refused(api: Api, path: str, status: int = 400) -> dict[str, Any]:
    """The problem that a request is answered with."""
    answer = api.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status
    return answer.json()


# Health says what is, not that there is always an error.


def test_health_is_ok_when_all_is_well(api: Api) -> None:
    until(lambda: api.get("health")["questdb"])  # the first connection may take longer than health waits
    found = api.get("health")
    assert (found["status"], found["questdb"], found["postgres"], found["phase"]) == ("ok", True, True, "legacy")
    assert api.get("health/ready")["questdb"] is True


def test_health_lives_on_without_questdb_and_readiness_does_not(loaded: tuple[Path, Address], postgres: str) -> None:
    home, address = loaded
    with opened(settings_of(home, address, postgres), address, postgres) as api:
        api.service.store = Away()  # pyright: ignore[reportAttributeAccessIssue]
        assert api.get("health")["status"] == "degraded"
        assert refused(api, "/api/v1/health/ready", 503)["retry_after_s"] == 1


def test_while_questdb_is_silent_health_answers_at_once_and_recent_answers_go_out_with_their_age(
    loaded: tuple[Path, Address], postgres: str
) -> None:
    home, address = loaded
    with line_to(address) as line:
        behind = replace(address, pg_port=line.port)
        with opened(settings_of(home, behind, postgres), behind, postgres) as api:
            known = api.client.get("/api/v1/overview")
            until(lambda: api.get("health")["questdb"])
            line.cut.set()
            api.later(2)
            for _ in range(3):
                began = time.monotonic()
                assert api.get("health")["status"] == "degraded"
                assert time.monotonic() - began < 1
                api.later(1)
            began = time.monotonic()
            last = api.client.get("/api/v1/overview")
            assert time.monotonic() - began < 2
            assert (last.content, last.headers["age"]) == (known.content, "5")
            assert "warning" not in last.headers  # nobody knows yet that it is away
            until(lambda: "warning" in api.client.get("/api/v1/overview").headers)
            began = time.monotonic()
            assert api.client.get("/api/v1/overview").headers["age"] == "5"
            assert time.monotonic() - began < 1
            api.later(3_600)
            assert api.client.get("/api/v1/overview").headers["age"] == "3605"
            line.cut.clear()
            until(lambda: api.later() or "age" not in api.client.get("/api/v1/overview").headers)


def test_health_answers_at_once_also_where_questdb_has_never_answered(
    loaded: tuple[Path, Address], postgres: str
) -> None:
    home, address = loaded
    with silent_port() as port:
        silent = replace(address, pg_port=port)
        with opened(settings_of(home, silent, postgres), silent, postgres) as api:
            began = time.monotonic()
            assert (api.get("health")["status"], api.get("health")["questdb"]) == ("degraded", False)
            assert time.monotonic() - began < 1.5


# The event loop is for everybody: pages are made beside it, two at once.


def test_documents_and_their_text_are_made_in_other_threads_than_the_event_loop(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def noted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def note(*values: Any) -> Any:
            made.append(name)
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            return work(*values)

        return note

    monkeypatch.setattr(routes, "_rendered", noted("text", routes._rendered))
    monkeypatch.setattr(listing, "dxy_tick", noted("tick", listing.dxy_tick))
    monkeypatch.setattr(listing, "smiles", noted("smiles", listing.smiles))
    api.later()
    api.get("dxy", limit=2)
    api.get("vol-surface", limit=2)
    api.get("freshness")
    assert made == ["tick", "tick", "text", "smiles", "text", "text"]


def test_who_waits_too_long_for_his_turn_to_a_page_is_told_so(
    loaded: tuple[Path, Address], postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "ANSWER_S", 0.2)
    home, address = loaded
    with opened(settings_of(home, address, postgres), address, postgres) as api:
        taken = api.service.pages = asyncio.Semaphore(PAGES)
        assert api.get("dxy", limit=1)["items"]

        async def take() -> None:
            for _ in range(PAGES):
                await taken.acquire()

        assert api.client.portal
        api.client.portal.call(take)
        assert "at once" in refused(api, "/api/v1/dxy?limit=2", 503)["detail"]
        assert api.get("overview")["kpis"]
        taken.release()
        assert api.get("dxy", limit=2)["items"]


# `from` and `to` match rows; the service's own timestamps may be given back.


@pytest.mark.parametrize("path", [path for path in LISTS if path != "signals"])
def test_a_rows_own_time_given_back_as_from_and_to_finds_it(api: Api, path: str) -> None:
    row = api.get(path, limit=1)["items"][0]
    found = api.get(path, **{"from": row["at"], "to": row["at"]})["items"]
    assert row in found
    assert {one["at"] for one in found} == {row["at"]}


def test_a_day_is_a_local_one_with_all_of_its_rows(api: Api) -> None:
    found = api.get("dxy", **{"from": "2025-10-13", "to": "2025-10-13"})["items"]
    assert [one["bucket"] for one in found] == ["dxy_09h00", "dxy_08h55", "dxy_08h50"]
    assert api.get("dxy", **{"from": "2025-10-13T09:00", "to": "2025-10-13T09:00"})["items"] == found[:1]
    assert api.get("dxy", **{"from": "2025-10-13T12:00:00Z", "to": "2025-10-13T12:00:00Z"})["items"] == found[:1]


def test_an_evening_belongs_to_its_local_day_though_it_is_the_next_in_utc(api: Api) -> None:
    found = api.get("indicators/daily", **{"from": "2025-10-13", "to": "2025-10-13", "indicator": "taxa_selic"})
    assert next((one["at"], one["feed"]) for one in found["items"]) == ("2025-10-13T23:00:00Z", "b3_indicators")


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "1969-12-31T00:00Z", "9999-12-31T23:59:59.999998Z"])
def test_the_ends_of_the_calendar_are_times_as_any_other(api: Api, path: str, text: str) -> None:
    for parameters in ({"from": text}, {"to": text}, {"from": text, "to": text}):
        assert isinstance(api.get(path, **parameters)["items"], list)


# The surface: a limit that counts, whole tenors, deltas as numbers, a contract filter that matches.


def test_the_surface_gives_as_many_tenors_as_asked_for_each_with_all_its_deltas(api: Api) -> None:
    found = api.get("vol-surface", limit=3)["items"]
    assert len(found) == 3
    assert all(one["deltas"] == DELTAS and len(one["volatilities"]) == 11 for one in found)
    assert [one["tenor"] for one in found] == ["nov-25", "dez-25", "jan-26"]


@pytest.mark.parametrize("contract", ["X25", "nov-25", "x25", "NOV-25"])
def test_the_surfaces_contract_filter_takes_both_forms(api: Api, contract: str) -> None:
    found = api.get("vol-surface", contract=contract)["items"]
    assert len(found) > 1
    assert {(one["tenor"], one["contract_month"]) for one in found} == {("nov-25", "X25")}


@pytest.mark.parametrize("contract", ["X25", "nov-25"])
def test_the_futures_contract_filter_takes_both_forms_too(api: Api, contract: str) -> None:
    for path in ("adjustments", "snapshots"):
        found = api.get(path, contract=contract, instrument="DOL")["items"]
        assert found
        assert {(one["instrument"], one["contract_month"]) for one in found} == {("DOL", "X25")}


def test_the_pages_of_the_surface_are_the_whole_of_it_and_in_the_order_of_dates(
    api: Api, loaded: tuple[Path, Address]
) -> None:
    whole = pages(api, "vol-surface", limit=1000)
    cut = pages(api, "vol-surface", limit=7)
    assert [one for page in cut for one in page] == [one for page in whole for one in page]
    assert all(len(page) == 7 for page in cut[:-1])
    tenors = [one for page in whole for one in page]
    order = [(one["at"], one["tenor"]) for one in tenors]
    moments = [at for at, _tenor in order]
    assert moments == sorted(moments, reverse=True)
    for moment in set(moments):
        months = [year_and_month(tenor) for at, tenor in order if at == moment]
        assert months == sorted(set(months))
    # what several feeds have of one key comes once
    with QuestDB(loaded[1]) as db:
        keys = "select count() from (select distinct ts, contract_month, delta_bucket from b3_vol_surface)"
        assert sum(len(one["deltas"]) for one in tenors) == db.scalar(keys)


# Limits and cursors: newest first, never the oldest for a negative limit; a bad one is refused.


@pytest.mark.parametrize("path", [path for path in LISTS if path not in ("signals", "vol-surface")])
def test_the_pages_of_a_route_are_all_of_its_rows_once_newest_first(api: Api, path: str) -> None:
    whole = [one for page in pages(api, path, limit=1000) for one in page]
    size = max(1, len(whole) // 5)
    cut = pages(api, path, limit=size)
    assert [one for page in cut for one in page] == whole
    assert all(len(page) == size for page in cut[:-1])
    moments = [one["at"] for one in whole]
    assert moments == sorted(moments, reverse=True)


@pytest.mark.parametrize("limit", ["-1", "0", "1001", "abc", "9" * 5_000, "1e3", ""])
def test_a_limit_that_is_none_is_refused_with_what_is_allowed(api: Api, limit: str) -> None:
    for path in LISTS:
        [error] = refused(api, f"/api/v1/{path}?limit={limit}")["errors"]
        assert (error["parameter"], error["allowed"]) == ("limit", "a whole number from 1 to 1000")


def test_the_largest_limit_is_given_as_many_as_there_are(api: Api, loaded: tuple[Path, Address]) -> None:
    with QuestDB(loaded[1]) as db:
        assert len(api.get("adjustments", limit=1000)["items"]) == min(
            1000, db.scalar("select count() from b3_adjustments")
        )


def test_a_cursor_of_another_question_is_refused(api: Api) -> None:
    cursor = api.get("dxy", limit=1)["next_cursor"]
    for path in (f"dxy?cursor={cursor}&feed=all", f"adjustments?cursor={cursor}", "dxy?cursor=abc", "dxy?cursor="):
        assert refused(api, f"/api/v1/{path}")["errors"][0]["parameter"] == "cursor"


@pytest.mark.parametrize(
    "query",
    [
        "x=1",
        "from=%00",
        "contract=%ED%A0%80",
        "instrument=DOL'--",
        "instrument=%F0%9F%92%A9",
        "from=1e999",
        "to=2025-02-30",
        "%00=%00",
        "limit=1&limit=1",
        "limit=%C3%28",
    ],
)
def test_bad_input_is_a_problem_that_says_what_was_wrong_and_what_is_allowed(api: Api, query: str) -> None:
    for path in LISTS:
        found = refused(api, f"/api/v1/{path}?{query}")
        assert found["errors"]
        assert all(error["problem"] and error["allowed"] for error in found["errors"])


@pytest.mark.parametrize("text", ["'; drop table b3_dxy_ticks; --", "💩", "ÇÃO", "%", "\\", "a" * 100])
def test_any_plain_text_is_a_filter_and_only_that(api: Api, text: str) -> None:
    assert api.get("indicators/daily", indicator=text)["items"] == []
    assert api.get("indicators", indicator=text)["items"] == []
    assert api.get("loads", table=text, feed=text)["items"] == []
    assert api.get("signals", channel=text, asset=text)["items"] == []
    assert api.get("dxy", limit=1)["items"]


@pytest.mark.parametrize("path", ["overview", "health", "health/ready", "freshness"])
def test_routes_without_parameters_take_none(api: Api, path: str) -> None:
    assert refused(api, f"/api/v1/{path}?limit=1")["errors"][0]["allowed"] == "none"


@pytest.mark.parametrize("path", [path for path in LISTS if path not in ("loads", "signals")])
def test_a_feed_that_there_is_not_is_refused_with_those_that_there_are(api: Api, path: str) -> None:
    [error] = refused(api, f"/api/v1/{path}?feed=nobody")["errors"]
    assert error["allowed"].split(", ")[:2] == ["all", "b3_sprd"]


# Errors are JSON: what there is not, what is too much, what is our own fault.


def test_an_unknown_address_and_another_method_are_problems(api: Api) -> None:
    refused(api, "/api/v1/nothing", 404)
    answer = api.client.post("/api/v1/dxy")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")


def test_too_many_requests_are_a_problem_that_says_when_to_come_back(api: Api) -> None:
    answer = api.client.get("/problem")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["retry_after_s"] == 1


def test_a_defect_of_ours_shows_neither_statement_nor_path(api: Api) -> None:
    found = refused(api, "/defect", 500)
    assert "select" not in str(found)
    assert "/home" not in str(found)


# While QuestDB is away: the last known answer, which says so, or 503; never 200 with an empty list.


@pytest.mark.parametrize("path", [*LISTS, "overview", "freshness"])
def test_without_questdb_the_last_known_answer_goes_out_with_its_age_and_else_503(
    loaded: tuple[Path, Address], postgres: str, path: str
) -> None:
    home, address = loaded
    with opened(settings_of(home, address, postgres), address, postgres) as api:
        known = api.client.get(f"/api/v1/{path}")
        assert known.status_code == 200
        assert "age" not in known.headers
        api.service.store = Away()  # pyright: ignore[reportAttributeAccessIssue]
        api.later(30)
        last = api.client.get(f"/api/v1/{path}")
        assert (last.status_code, last.headers["age"]) == (200, "30")
        assert last.headers["warning"].startswith("110 - ")
        assert last.content == known.content
        if path in LISTS:
            unknown = refused(api, f"/api/v1/{path}?limit=17", 503)
            assert "select" not in str(unknown)


def test_a_service_that_never_had_questdb_says_503(loaded: tuple[Path, Address], postgres: str) -> None:
    home, address = loaded
    with opened(settings_of(home, address, postgres), address, postgres) as api:
        api.service.store = Away()  # pyright: ignore[reportAttributeAccessIssue]
        for path in (*LISTS, "overview", "freshness"):
            refused(api, f"/api/v1/{path}", 503)


def test_without_postgresql_the_phase_is_the_last_known_and_parity_is_503(loaded: tuple[Path, Address]) -> None:
    home, address = loaded
    nobody = "postgresql://u:secret@127.0.0.1:9/b3"
    with opened(settings_of(home, address, nobody), address, nobody) as api:
        found = api.get("cutover")
        assert (found["phase"], found["stale"], found["history"]) == ("legacy", True, None)
        assert "secret" not in str(refused(api, "/api/v1/parity", 503))
        assert api.get("overview")["phase"] == "legacy"


def test_the_phase_of_the_ideas_is_told_apart_from_that_of_the_market(
    loaded: tuple[Path, Address], postgres: str
) -> None:
    home, address = loaded
    with opened(settings_of(home, address, postgres), address, postgres) as api:
        entry = Entry("ideas", "phase", "shadow", NOW, "mesa", "teste")
        api.service.flags = Current({**DEFAULTS, ("ideas", "phase"): entry})
        assert api.get("cutover")["phase"] == "legacy"
        found = api.get("cutover", domain="ideas")
        assert (found["phase"], found["who"], found["why"]) == ("shadow", "mesa", "teste")
        assert refused(api, "/api/v1/cutover?domain=bots")["errors"][0]["parameter"] == "domain"


# What each document says.


def test_a_snapshot_is_the_captures_price_and_of_the_session_before(api: Api) -> None:
    [found] = api.get("snapshots", instrument="DOL", **{"from": "2025-10-13", "to": "2025-10-13"})["items"]
    assert found == {
        "at": "2025-10-13T12:00:32Z",
        "session": "2025-10-10",
        "instrument": "DOL",
        "contract_month": "X25",
        "price": 5528.504,
        "previous": 5530.704,
        "change": -2.2,
        "status": "sucesso",
        "source": "B3",
        "feed": "legacy_capture",
    }


@pytest.mark.parametrize("indicator", ["taxa_selic", "TAXA SELIC - (a.a.)"])
def test_an_indicator_of_a_capture_is_found_by_label_and_by_short_name(api: Api, indicator: str) -> None:
    found = api.get("indicators", indicator=indicator)["items"]
    assert [(one["name"], one["indicator"]) for one in found] == [("TAXA SELIC - (a.a.)", "taxa_selic")] * 2
    assert (found[0]["value"], found[0]["display_value"], found[0]["updated_at"]) == (14.9, "14,90", "2025-10-13")


def test_gamma_levels_are_null_where_the_provider_has_none(api: Api) -> None:
    [found] = api.get("gamma-levels", instrument="VIX")["items"]
    assert (found["call_wall"], found["put_wall"], found["gamma_flip"]) == (25.0, None, None)


def test_a_load_accounts_for_every_candidate(api: Api) -> None:
    found = api.get("loads", table="b3_adjustments", limit=1000)["items"]
    assert {one["table"] for one in found} == {"b3_adjustments"}
    assert "SPRD251013.zip" in {one["file"] for one in found}
    for one in found:
        assert one["candidates"] == one["loaded"] + one["rejected"] + one["duplicate"] + one["absent"]


def test_freshness_says_of_each_table_what_was_due_and_what_came(api: Api) -> None:
    found = {one["table"]: one for one in api.get("freshness")["tables"]}
    assert len(found) == 8
    assert found["b3_adjustments"]["feeds"] == [
        {
            "feed": "b3_sprd",
            "newest": "2025-10-13T22:30:00Z",
            "expected": "2025-10-13T03:00:00Z",
            "due": "2025-10-14T23:30:00Z",
            "fresh": True,
        }
    ]
    assert found["b3_snapshots"]["fresh"] is None


def test_no_route_has_a_bot_or_its_token(api: Api) -> None:
    assert "telegram" not in str(sorted(api.client.get("/openapi.json").json()["paths"]))
    for path in ("telegram", "telegram_bots", "bots", "telegram-bots"):
        refused(api, f"/api/v1/{path}", 404)


@pytest.mark.parametrize("path", [*LISTS, "parity", "cutover", "overview"])
def test_a_client_that_has_an_answer_is_told_so(api: Api, path: str) -> None:
    first = api.client.get(f"/api/v1/{path}")
    again = api.client.get(f"/api/v1/{path}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = api.client.get(f"/api/v1/{path}", headers={"If-None-Match": 'W/"another"'})
    assert other.status_code == 200
