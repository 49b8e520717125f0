"""The page in Debian's Chromium: what a reader sees of it, does with it, and is told when it goes wrong."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from b3_pipeline.api.page import formats
from b3_pipeline.api.page.parity import Differed, Parity, quiet
from b3_pipeline.api.page.proof import proof_of
from b3_pipeline.postgres.callers import Caller
from b3_pipeline_tests.api.page import made
from b3_pipeline_tests.api.page.conftest import Desk, Served, drawn
from b3_pipeline_tests.api.page.test_proof import kept

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]

#: The sources of the charts that are drawn, by the name of their place: what Bokeh made of what it was sent.
SOURCES = """() => Object.fromEntries([...document.querySelectorAll('[data-chart]')].map((place) => {
  const root = Bokeh.documents.flatMap((d) => d.roots()).find((r) => {
    const view = Bokeh.index.get_by_id(r.id); return view && place.contains(view.el); });
  const sources = !root ? [] : [...root.document._all_models.values()].filter((m) => m.type === 'ColumnDataSource');
  return [place.dataset.chart, sources.map((s) => Object.fromEntries(Object.entries(s.data).map(
    ([k, v]) => [k, [...v].map((x) => Number.isNaN(x) ? 'NaN' : x)])))];
}))"""


def rows(page: Page, column: int) -> list[str]:
    """The texts of a column of the settlements that are shown."""
    cells = page.locator(f"#settlements tbody tr:not([hidden]) > :nth-child({column})")
    return cells.all_inner_texts()


def test_the_page_shows_what_the_overview_has_and_complains_of_nothing(look: Any, desk: Desk) -> None:
    seen = look("/")
    page = seen.page
    for kpi in desk.overview.kpis:
        shown = page.locator(f"#kpi-{kpi.id} [data-flash]")
        assert shown.inner_text() == formats.number(kpi.value, kpi.decimals, kpi.id == "dxy")
    assert page.locator("#settlements tbody tr").count() == len(desk.overview.settlements)
    dol = next(s for s in desk.overview.settlements if (s.instrument, s.contract_month) == ("DOL", "G26"))
    row = page.locator("#settlements tbody tr", has=page.get_by_text("DOL G26", exact=True))
    expect(row.locator("td").nth(1)).to_have_text(formats.number(dol.price, 3))
    expect(row.locator("td").nth(4)).to_have_text(formats.number(dol.value_per_contract, 2))
    expect(page.locator("#gamma-levels tbody tr").first).to_contain_text("6.500,00")
    expect(page.locator("#updated")).to_have_text("às 19:40:32")
    assert seen.complaints == []


def test_the_charts_are_drawn_with_the_overviews_values_and_a_gap_is_no_zero(look: Any, desk: Desk) -> None:
    sources = look("/").page.evaluate(SOURCES)
    assert set(sources) == {"curve", "smile", "heatmap", "gamma-ES_SP500", "gamma-VIX", "dxy"}
    [line] = [data for data in sources["dxy"] if "clock" in data]
    assert line["y"] == ["NaN" if p.value is None else p.value for p in desk.overview.dxy.points]
    assert desk.overview.di_curve is not None
    assert sources["curve"][-1]["y"] == [p.rate for p in desk.overview.di_curve.points]


def test_the_page_updates_itself_and_keeps_what_the_reader_chose(look: Any, desk: Desk) -> None:
    seen = look("/")
    page = seen.page
    page.get_by_role("button", name="DOL", exact=True).click()
    page.get_by_role("button", name="Ajuste", exact=True).click()
    page.locator("#curva summary").click()
    page.get_by_role("button", name="Anterior", exact=True).focus()
    changed = [s.model_copy(update={"price": s.price + 1}) for s in desk.overview.settlements]
    kpis = [desk.overview.kpis[0].model_copy(update={"value": 5_400.125}), *desk.overview.kpis[1:]]
    dxy = desk.overview.dxy.model_copy(update={"points": desk.overview.dxy.points[:-1]})
    later = made.NOW + timedelta(minutes=1)
    desk.overview = desk.overview.model_copy(update={"at": later, "kpis": kpis, "settlements": changed, "dxy": dxy})
    expect(page.locator("#kpi-dol_settlement [data-flash]")).to_have_text("5.400,125")
    expect(page.locator("#updated")).to_have_text("às 19:41:32")
    page.wait_for_function("() => document.querySelector('#dxy tbody').rows.length === 116")
    assert all(text.startswith("DOL ") for text in rows(page, 1))
    prices = [s.price for s in changed if s.instrument == "DOL"]
    assert rows(page, 3) == [formats.number(price, 3) for price in sorted(prices)]
    assert page.locator("#curva details").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.textContent") == "Anterior"
    page.wait_for_function(
        f"() => {{ const s = ({SOURCES})(); return s.dxy.some((d) => d.clock && d.y.length === 116); }}"
    )
    assert page.evaluate("Bokeh.documents.length") == 6  # the replaced ones are forgotten
    assert seen.complaints == []


def test_the_settlements_are_sorted_by_mouse_and_keyboard_and_say_how(look: Any, desk: Desk) -> None:
    page = look("/").page
    header = page.locator("#settlements th", has=page.get_by_role("button", name="Em aberto", exact=True))
    assert header.get_attribute("aria-sort") is None
    header.locator("button").focus()
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    known = sorted(s.open_interest for s in desk.overview.settlements if s.open_interest is not None)
    absent = ["–"] * (len(desk.overview.settlements) - len(known))
    assert rows(page, 8) == [*(formats.count(n) for n in known), *absent]
    page.keyboard.press("Space")
    expect(header).to_have_attribute("aria-sort", "descending")
    assert rows(page, 8) == [*(formats.count(n) for n in reversed(known)), *absent]  # what is absent stays below
    page.get_by_role("button", name="Vencimento", exact=True).click()
    assert page.locator("#settlements th[aria-sort]").all_inner_texts() == ["Vencimento"]
    assert rows(page, 2)[0] == "fev/26"


def test_the_tenor_picker_changes_the_smile_and_the_address(look: Any, desk: Desk) -> None:
    page = look("/").page
    page.get_by_label("Sorriso do vencimento").select_option("dez-25")
    assert desk.overview.surface is not None
    wanted = json.dumps(desk.overview.surface.values[1])
    shown = f"({SOURCES})().smile.find((d) => d.text)?.y"
    page.wait_for_function(f"() => JSON.stringify({shown}) === JSON.stringify({wanted})")
    assert page.url.endswith("?vencimento=dez-25")
    page.reload()
    drawn(page)
    expect(page.get_by_label("Sorriso do vencimento")).to_have_value("dez-25")


def test_a_server_that_goes_away_is_told_and_the_page_recovers_by_itself(look: Any, served: Served) -> None:
    page = look("/").page
    expect(page.locator("#alarm")).to_be_hidden()
    served.stop()
    expect(page.get_by_role("alert").filter(has_text="Desconectado")).to_contain_text("Os valores são de 19:40:32")
    expect(page.locator("#kpi-dol_settlement [data-flash]")).to_be_visible()
    later = made.NOW + timedelta(minutes=2)
    served.desk.overview = served.desk.overview.model_copy(update={"at": later})
    served.start()
    expect(page.locator("#notice")).to_have_text("Conexão restabelecida.", timeout=40_000)
    expect(page.locator("#alarm")).to_be_hidden()
    expect(page.locator("#updated")).to_have_text("às 19:42:32")


def test_while_the_server_is_away_ages_grow_nothing_is_called_fresh_and_another_day_is_named(
    look: Any, served: Served
) -> None:
    page = look("/").page
    badge = page.locator("#ajustes .badge")
    expect(badge).to_have_text("em dia · há 10 min")
    served.stop()
    page.clock.set_fixed_time(made.NOW + timedelta(hours=27))
    expect(page.get_by_role("alert").filter(has_text="Desconectado")).to_contain_text(
        "Os valores são de 12/01/2026 às 19:40:32", timeout=40_000
    )
    expect(page.locator("#updated")).to_have_text("em 12/01/2026 às 19:40:32")
    expect(badge).to_contain_text("há 27 h")
    expect(badge.get_by_text("em dia")).to_be_hidden()
    assert badge.evaluate("(e) => getComputedStyle(e, '::before').content") == '"não se sabe"'
    expect(page.locator("#kpi-dol_settlement time")).to_have_text("há 27 h")
    served.start()
    expect(badge).to_have_text("em dia · há 10 min", timeout=60_000)  # what the server says takes its place again
    expect(page.locator("#updated")).to_have_text("em 12/01/2026 às 19:40:32")


def test_questdb_away_is_told_and_its_return_too(look: Any, desk: Desk) -> None:
    page = look("/").page
    desk.away = True
    expect(page.get_by_role("alert").filter(has_text="fora do ar")).to_be_visible()
    desk.away = False
    expect(page.locator("#stale")).to_have_count(0)


def test_a_page_opened_without_data_fills_itself_when_they_come(look: Any, desk: Desk) -> None:
    desk.away = True
    page = look("/", wait=False).page
    expect(page.get_by_role("heading", name="Sem dados agora")).to_be_visible()
    desk.away = False
    expect(page.locator("#kpi-dol_settlement [data-flash]")).to_be_visible(timeout=40_000)
    drawn(page)


def test_a_page_that_was_empty_draws_the_charts_that_come_later(look: Any, desk: Desk) -> None:
    whole = desk.overview
    desk.overview = made.empty()
    page = look("/", wait=False).page
    expect(page.locator("#curva .empty")).to_be_visible()
    desk.overview = whole
    drawn(page)
    desk.overview = made.empty()
    expect(page.locator("[data-chart]")).to_have_count(0)
    page.wait_for_function("() => Bokeh.documents.length === 0")


def test_a_hidden_tab_asks_nothing(look: Any, served: Served) -> None:
    page = look("/").page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide = "(h) => { Object.defineProperty(document, 'hidden', { value: h, configurable: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    page.evaluate(
        "() => new Promise((r) => { let n = 0; const f = () => (++n > 200 ? r() : requestAnimationFrame(f)); f(); })"
    )
    assert len(asked) <= 1  # one may have been on its way
    with page.expect_request("**/page/fragment?*"):
        page.evaluate(hide, False)


@pytest.mark.parametrize("width", [360, 768, 3840])
def test_no_width_needs_sideways_scrolling(look: Any, width: int) -> None:
    page = look("/", width=width, height=800).page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.evaluate(
        "(w) => [...document.querySelectorAll('section, figure, .kpi, .chart')]"
        ".filter((e) => e.getBoundingClientRect().right > w).map((e) => e.id || e.className)",
        width,
    )
    assert wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/paridade"])
def test_axe_finds_nothing(look: Any, desk: Desk, tmp_path: Path, scheme: str, path: str) -> None:
    bodies = {"legacy": "{}", "ours": "[]", "differences": ["/DOL"]}
    desk.mismatches = [{"id": 1, "at": made.NOW, "endpoint": "/gamma", "count": 1, **bodies}]
    caller = Caller(made.SESSION, "10.0.0.1", "planilha/1.0", "/gamma", 3, made.MORNING, made.NOW)
    counts = {"equal": 3, "different": 1}
    kept(tmp_path)
    desk.parity = Parity(counts, quiet("legacy", True), Differed(1, 1, [], [caller]), proof_of(tmp_path))
    late = [made.dataset("b3_dxy_ticks", fresh=False, checks_failed=["gaps"]), *desk.overview.datasets[:3]]
    desk.overview = desk.overview.model_copy(update={"datasets": late})
    page = look(path, wait=path == "/", color_scheme=scheme, bypass_csp=True, reduced_motion="reduce").page
    for details in page.locator("summary").all():
        details.click()
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_everything_is_reached_by_keyboard_and_the_charts_are_no_stops(look: Any) -> None:
    page = look("/").page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Ir para o conteúdo"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "conteudo"
    stops = page.evaluate(
        "() => { const deep = (r) => [...r.querySelectorAll('*')].flatMap((e) => [e, ...(e.shadowRoot ? deep(e.shadowRoot) : [])]);"
        " return [...document.querySelectorAll('[data-chart]')].flatMap(deep).filter((e) => e.tabIndex >= 0).length; }"
    )
    assert stops == 0


def test_a_change_of_theme_redraws_the_charts(look: Any) -> None:
    page = look("/", color_scheme="light").page
    assert page.locator("#chart-dxy").get_attribute("data-theme") == "claro"
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#chart-dxy")).to_have_attribute("data-theme", "escuro")


def test_paper_shows_every_table_and_no_buttons(look: Any, desk: Desk) -> None:
    page = look("/").page
    page.emulate_media(media="print")
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    for table in page.locator("table").all():
        expect(table).to_be_visible()
    expect(page.locator("nav")).to_be_hidden()
    expect(page.locator(".chips")).to_be_hidden()
    assert page.evaluate(
        "document.querySelector('.scroll.tall').scrollHeight <= document.querySelector('.scroll.tall').clientHeight"
    )
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_without_javascript_the_tables_are_there(look: Any, desk: Desk) -> None:
    page = look("/", wait=False, java_script_enabled=False).page
    expect(page.locator("noscript p")).to_contain_text("Sem JavaScript a página não se atualiza")
    expect(page.locator("#settlements")).to_be_visible()
    page.locator("#tenor").select_option("dez-25")
    page.locator("noscript button").click()
    expect(page.locator("#tenor")).to_have_value("dez-25")


def test_the_first_picture_comes_within_a_second_and_with_few_bytes(look: Any, served: Served, browser: Any) -> None:
    look("/")  # what is compressed and rendered once for all is not this reader's
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    sizes: dict[str, float] = {}
    devtools.send("Network.enable")
    devtools.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    page.goto(f"{served.url}/")
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
    drawn(page)
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    complete = page.evaluate("performance.now()")
    context.close()
    total = sum(sizes.values()) / 1_000
    print(
        f"\nfirst contentful paint {painted:.0f} ms, charts drawn {complete:.0f} ms, {total:.0f} KB in {len(sizes)} answers"
    )
    assert painted <= 1_000
    assert total <= 500
