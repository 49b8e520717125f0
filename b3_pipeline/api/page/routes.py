"""The page's routes: the page itself, the parts of it that change, its charts, and how parity with the legacy side stands."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, FastAPI, Query, Request
from markupsafe import Markup
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from starlette.responses import HTMLResponse, Response

from b3_pipeline.api.page import assets, cutover, ideas, panels, systems
from b3_pipeline.api.page import parity as standing
from b3_pipeline.api.page.charts import Chart, ThemeName, charts_of
from b3_pipeline.api.page.rendering import render
from b3_pipeline.api.problems import Problem
from b3_pipeline.api.service import Service
from b3_pipeline.api.sharing import Answer
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.v1.answers import aged, known, tag_of
from b3_pipeline.api.v1.models import Overview
from b3_pipeline.parsing.months import is_tenor

router = APIRouter(include_in_schema=False)
router.include_router(ideas.router)
router.include_router(systems.router)

Ask = Callable[[Service], Awaitable[Answer[Overview]]]
AskParity = Callable[[Service], Awaitable[standing.Parity]]
#: How many different fragments (by tenor) and charts are kept made.
KEPT = 64
_THEMES: dict[str, ThemeName] = {"claro": "light", "escuro": "dark"}


def _tenor(text: str | None) -> str | None:
    if text is not None and not is_tenor(text):
        raise PydanticCustomError("tenor", "is no tenor", {"expected": "a month like nov-25"})
    return text


Tenor = Annotated[str | None, AfterValidator(_tenor), Query(alias="vencimento", description="Tenor: nov-25")]
ThemeQuery = Annotated[Literal["claro", "escuro"], Query(alias="tema")]


def mount(app: FastAPI, ask: Ask | None = None, ask_parity: AskParity = standing.of_service) -> None:
    """Adds the static files, and what the routes share; `ask` gives the overview (or raises StoreAway), by default the API's own."""
    app.state.page = Page(ask or _of_api, ask_parity)
    app.add_route("/static/{name:path}", assets.answer, include_in_schema=False)


async def _of_api(service: Service) -> Answer[Overview]:
    from b3_pipeline.api.v1.overview import answered

    answer = await answered(service)
    return Answer(answer.value.document, answer.age_s, answer.stale)


@dataclass(frozen=True)
class Rendered:
    """The parts that change, as HTML, made of an overview; not its time, or every one would be another."""

    of: Overview
    html: str
    etag: str


class Page:
    """What is made for the page, once for all who look at it. For one event loop."""

    def __init__(self, ask: Ask, ask_parity: AskParity) -> None:
        self.overview, self.parity = ask, ask_parity
        self._fragments: OrderedDict[tuple[str | None, int | None], Rendered] = OrderedDict()
        self._items: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._drawing = asyncio.Lock()

    async def fragment(self, answer: Answer[Overview], tenor: str | None) -> Rendered:
        """The parts that change."""
        surface = answer.value.surface
        tenor = tenor if surface and tenor in surface.tenors else None  # nobody fills this with names of his own
        # what is the last known grows older while it stays the same: it says so every minute
        key = (tenor, int(answer.age_s // 60) if answer.stale else None)
        before = self._fragments.get(key)
        if before is not None and before.of is answer.value:
            return before
        html = await asyncio.to_thread(_fragment, answer, tenor)
        rendered = Rendered(answer.value, html, tag_of(html.encode()))
        _keep(self._fragments, key, rendered)
        return rendered

    async def item(self, chart: Chart, theme: ThemeName) -> tuple[str, bytes]:
        """A chart's version and its document."""
        key = (chart.name, chart.version(theme))
        async with self._drawing:  # drawn by one, away from the loop
            if key not in self._items:
                _keep(self._items, key, await asyncio.to_thread(lambda: orjson.dumps(chart.item(theme))))
            return key[1], self._items[key]


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)


# Routes


@router.get("/")
async def page(request: Request, tenor: Tenor = None) -> Response:
    """The whole page; without JavaScript it is complete but for the charts."""
    try:
        answer = await _page(request).overview(_service(request))
    except StoreAway:
        html = render("page.html", fragment=_unavailable(request), at=None)
        return HTMLResponse(html, 503, {"Cache-Control": "no-store", "Retry-After": "5"})
    rendered = await _page(request).fragment(answer, tenor)
    html = render("page.html", fragment=Markup(rendered.html), at=answer.value.at)
    headers = _headers(answer, tag_of(html.encode()))
    if _has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return HTMLResponse(html, 200, headers)


@router.get("/page/fragment")
async def fragment(request: Request, tenor: Tenor = None) -> Response:
    """The parts of the page that change."""
    answer = await _answer(request)
    rendered = await _page(request).fragment(answer, tenor)
    headers = _headers(answer, rendered.etag)
    if _has(request, rendered.etag):
        return Response(status_code=304, headers=headers)
    return HTMLResponse(rendered.html, 200, headers)


@router.get("/page/charts")
async def charts(request: Request, tenor: Tenor = None, theme: ThemeQuery = "claro") -> Response:
    """The charts, by name, each with its version and its document for `Bokeh.embed.embed_item`."""
    answer = await _answer(request)
    wanted = await asyncio.to_thread(charts_of, answer.value, tenor)
    etag = tag_of("".join(chart.version(_THEMES[theme]) for chart in wanted).encode())
    headers = _headers(answer, etag)
    if _has(request, etag):
        return Response(status_code=304, headers=headers)
    made = {chart.name: await _page(request).item(chart, _THEMES[theme]) for chart in wanted}
    document = {name: {"version": version, "item": orjson.Fragment(item)} for name, (version, item) in made.items()}
    return Response(orjson.dumps({"charts": document}), 200, headers, "application/json")


@router.get("/paridade")
async def parity(request: Request) -> Response:
    """The payloads of the legacy contract that ours did not equal, what was compared at all, and who still asks for it."""
    found = await _page(request).parity(_service(request))
    html = render(
        "parity.html",
        here="/paridade",
        parity=found,
        sessions=standing.SESSIONS,
        most_callers=standing.CALLERS,
        dagster_url=_service(request).dagster_url,
    )
    return HTMLResponse(html, 503 if found.differed is None else 200, {"Cache-Control": "no-store"})


@router.get("/corte")
async def cutover_page(request: Request) -> Response:
    """The phase, and the gates of the next step as they were last seen."""
    values = await cutover.of_service(_service(request))
    html = render("cutover.html", here="/corte", dagster_url=_service(request).dagster_url, **values)
    return HTMLResponse(html, 200, {"Cache-Control": "no-store"})


def _page(request: Request) -> Page:
    return request.app.state.page


def _service(request: Request) -> Service:
    return request.app.state.service


async def _answer(request: Request) -> Answer[Overview]:
    try:
        return await _page(request).overview(_service(request))
    except StoreAway:
        raise Problem(503, "QuestDB does not answer, and nothing is known yet.", {"Retry-After": "5"}) from None


def _headers(answer: Answer[Overview], etag: str) -> dict[str, str]:
    at = answer.value.at.isoformat()
    return {"ETag": etag, "Cache-Control": "no-cache", "X-B3-At": at, **aged(answer)}


def _has(request: Request, etag: str) -> bool:
    return known(request.headers.get("if-none-match"), etag)


# Rendering


def _fragment(answer: Answer[Overview], tenor: str | None) -> str:
    overview = answer.value
    values = panels.context(overview, tenor, answer.age_s if answer.stale else None)
    version = tag_of("".join(chart.version("light") for chart in charts_of(overview, tenor)).encode())
    return render("fragment.html", charts_version=version, **values)


def _unavailable(request: Request) -> Markup:
    return Markup(render("unavailable.html", dagster_url=_service(request).dagster_url))
