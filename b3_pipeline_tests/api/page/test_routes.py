from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import bokeh
import pytest
from starlette.testclient import TestClient

from b3_pipeline.api.page import assets, formats, panels
from b3_pipeline.api.page.charts import charts_of
from b3_pipeline.api.page.panels import mismatches
from b3_pipeline.api.page.parity import Differed, quiet
from b3_pipeline.api.page.rendering import render
from b3_pipeline.api.page.routes import Page
from b3_pipeline.api.sharing import Answer
from b3_pipeline.api.v1.models import Overview
from b3_pipeline.postgres.callers import Caller
from b3_pipeline_tests.api.page import made
from b3_pipeline_tests.api.page.conftest import Desk, asking, parity_of

VOID = {"meta", "link", "br", "img", "input"}


class Outline(HTMLParser):
    """A document's ids, links and texts by the id around them; fails where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.inline: list[str] = []
        self.text: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(html)
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        if tag == "script" and "src" not in given:
            self.inline.append("script")
        if name := given.get("id"):
            self.ids.append(name)
        if tag == "a" and (href := given.get("href")):
            self.links.append(href)
        if tag not in VOID:
            self._open.append((tag, given.get("id")))

    def handle_endtag(self, tag: str) -> None:
        opened, _name = self._open.pop()
        assert opened == tag, f"</{tag}> after <{opened}>"

    def handle_data(self, data: str) -> None:
        for _tag, name in self._open:
            if name:
                self.text[name] = " ".join(f"{self.text.get(name, '')} {data}".split())


def with_(overview: Overview, **changes: Any) -> Overview:
    return overview.model_copy(update=changes)


def test_every_figure_of_the_overview_is_on_the_page(client: TestClient, desk: Desk) -> None:
    seen = Outline(client.get("/").raise_for_status().text)
    for kpi in desk.overview.kpis:
        text = seen.text[f"kpi-{kpi.id}"]
        told = formats.change(kpi.change, kpi.decimals)
        assert told is not None
        assert formats.number(kpi.value, kpi.decimals) in text
        assert f"{told.arrow} {told.text}" in text
        assert formats.day(kpi.session) in text
    assert "DOL ajuste G26" in seen.text["kpi-dol_settlement"]
    assert "14,90 % a.a." in seen.text["kpi-selic"]


def test_every_settlement_has_a_row_with_its_value_per_contract(client: TestClient, desk: Desk) -> None:
    text = Outline(client.get("/").text).text["settlements"]
    assert len(desk.overview.settlements) == 155
    for s in desk.overview.settlements:
        assert f"{s.instrument} {s.contract_month} {formats.contract_name(s.contract_month)}" in text
    assert "DI1 G26 fev/26 99.176,82 99.176,95 ▼ −0,13 (queda) 0,13 14,897" in text


def test_all_ids_are_unique_and_every_anchor_leads_somewhere(client: TestClient) -> None:
    seen = Outline(client.get("/").text)
    assert len(seen.ids) == len(set(seen.ids))
    anchors = {link.removeprefix("#") for link in seen.links if link.startswith("#")}
    assert {"kpis", "curva", "ajustes", "volatilidade", "gamma", "dxy", "qualidade", "conteudo"} <= anchors
    assert anchors <= set(seen.ids)


def test_each_panel_leads_to_its_asset_and_the_navigation_to_the_other_tools(client: TestClient, desk: Desk) -> None:
    links = Outline(client.get("/").text).links
    for dataset in desk.overview.datasets:
        assert dataset.dagster_url in links
    assert links.count(f"{made.DAGSTER}/assets/b3_adjustments") == 3  # curve, settlements, list of datasets
    assert {"/docs", "/paridade", made.DAGSTER} <= set(links)


@pytest.mark.parametrize("path", ["/", "/paridade"])
def test_nothing_is_inline(client: TestClient, desk: Desk, path: str) -> None:
    desk.mismatches = [mismatch()]
    assert Outline(client.get(path).text).inline == []


@pytest.mark.parametrize(
    ("phase", "word"), [("legacy", "legado"), ("shadow", "sombra"), ("active", "ativo"), ("frozen", "congelado")]
)
def test_the_phase_is_told_in_portuguese(client: TestClient, desk: Desk, phase: Any, word: str) -> None:
    desk.overview = made.empty(phase=phase)
    assert f"fase: {word}" in client.get("/").text


def test_an_empty_overview_is_a_page_on_which_each_panel_says_so(client: TestClient, desk: Desk) -> None:
    never = [made.dataset("b3_adjustments", rows=0, newest=None, age_s=None, fresh=None, due=None)]
    known = made.dataset("b3_gamma_levels", newest=made.MORNING - timedelta(days=3))
    desk.overview = made.empty(datasets=[*never, known])
    seen = Outline(client.get("/").raise_for_status().text)
    assert "sem indicadores" in seen.text["kpis"]
    for panel in ("curva", "ajustes", "volatilidade", "dxy"):
        assert "sem dados: nada chegou até agora" in seen.text[panel]
    assert "sem dados desde 09/01 09:00" in seen.text["gamma"]
    assert client.get("/page/charts").json() == {"charts": {}}
    desk.overview = made.empty()
    assert "sem conjuntos de dados" in Outline(client.get("/").text).text["qualidade"]


def test_a_figure_without_a_value_says_that_there_is_none(client: TestClient, desk: Desk) -> None:
    gone = dict.fromkeys(("at", "session", "age_s", "feed", "fresh", "due"))
    desk.overview = made.empty(kpis=[made.kpi("selic", "SELIC", None, None, "% a.a.", 2, **gone)])
    assert Outline(client.get("/").text).text["kpi-selic"] == "SELIC – sem dados sem dados"


def test_what_is_late_or_red_is_marked_where_it_is_and_named_at_the_top(client: TestClient, desk: Desk) -> None:
    late = made.dataset("b3_dxy_ticks", fresh=False, due=made.NOW - timedelta(minutes=10))
    red = made.dataset("b3_adjustments", checks_passed=7, checks_failed=["gaps", "soft_bounds"])
    old = made.kpi("dxy", "DXY agora", 0.26, None, "%", 2, fresh=False, due=made.NOW - timedelta(minutes=10))
    desk.overview = with_(desk.overview, datasets=[late, red], kpis=[old])
    seen = Outline(client.get("/").text)
    assert seen.text["late"] == "Dados atrasados: DXY ."
    assert "atrasado" in seen.text["kpi-dxy"]
    assert "esperado até 19:30:32" in seen.text["kpi-dxy"]
    assert "✗ gaps, soft_bounds" in seen.text["dado-b3_adjustments"]
    assert "atrasado" in seen.text["dado-b3_dxy_ticks"]


def test_texts_of_the_data_are_escaped(client: TestClient, desk: Desk) -> None:
    evil = made.dataset("b3_dxy_ticks", source='<script>alert("x")</script>', checks_failed=["<b>"])
    desk.overview = with_(desk.overview, datasets=[evil])
    desk.mismatches = [mismatch(legacy="<script>1</script>", differences=["<img src=x>"])]
    for path in ("/", "/paridade"):
        html = client.get(path).text
        assert "&lt;" in html
        assert "<script>" not in html
        assert "<img" not in html


# What changes


def test_a_fragment_that_did_not_change_is_304_and_a_changed_one_is_sent(client: TestClient, desk: Desk) -> None:
    first = client.get("/page/fragment")
    desk.overview = desk.overview.model_copy(update={"at": made.NOW + timedelta(seconds=2)})
    same = client.get("/page/fragment", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status_code, same.status_code, same.content) == (200, 304, b"")
    assert same.headers["x-b3-at"] == (made.NOW + timedelta(seconds=2)).isoformat()
    desk.overview = with_(desk.overview, kpis=[made.kpi("selic", "SELIC", 15.0, 14.9, "% a.a.", 2)])
    other = client.get("/page/fragment", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200
    assert "15,00" in Outline(other.text).text["kpi-selic"]


def test_charts_are_sent_by_name_with_their_versions_and_only_when_they_changed(client: TestClient, desk: Desk) -> None:
    answer = client.get("/page/charts", params={"vencimento": "dez-25", "tema": "escuro"})
    charts = answer.json()["charts"]
    assert {n: c["version"] for n, c in charts.items()} == {
        c.name: c.version("dark") for c in charts_of(desk.overview, "dez-25")
    }
    assert set(charts) == {"curve", "smile", "heatmap", "gamma-ES_SP500", "gamma-VIX", "dxy"}
    assert all({"doc", "root_id"} <= set(chart["item"]) for chart in charts.values())
    same = client.get(str(answer.request.url), headers={"If-None-Match": answer.headers["etag"]})
    assert same.status_code == 304
    assert client.get("/page/charts").headers["etag"] != answer.headers["etag"]


def test_the_fragment_names_another_version_when_a_chart_is_another(client: TestClient, desk: Desk) -> None:
    def version() -> str:
        return client.get("/page/fragment").text.split('data-charts="')[1].split('"')[0]

    before = version()
    desk.overview = desk.overview.model_copy(update={"kpis": []})
    assert version() == before
    desk.overview = desk.overview.model_copy(update={"di_curve_before": None})
    assert version() != before


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/page/charts?tema=rosa", "escuro"), ("/page/charts?vencimento=X25", "nov-25"), ("/?vencimento=%00", "nov-25")],
)
def test_a_malformed_question_is_told_what_is_allowed(client: TestClient, path: str, allowed: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    [error] = answer.json()["errors"]
    assert allowed in error["allowed"]


def test_a_tenor_that_is_not_there_shows_the_first(client: TestClient, desk: Desk) -> None:
    html = client.get("/", params={"vencimento": "dez-99"}).raise_for_status().text
    assert '<option value="nov-25" selected>' in html
    assert '<option value="dez-25" selected>' in client.get("/", params={"vencimento": "dez-25"}).text


# QuestDB away


def test_while_questdb_is_away_the_last_known_page_says_so(client: TestClient, desk: Desk) -> None:
    assert "fora do ar" not in client.get("/").text
    desk.away = True
    for path in ("/", "/page/fragment", "/page/charts"):
        answer = client.get(path).raise_for_status()
        assert answer.headers["warning"].startswith("110 ")
        assert int(answer.headers["age"]) >= 0
    assert "Banco de dados fora do ar" in Outline(client.get("/").text).text["stale"]
    desk.away = False
    assert "fora do ar" not in client.get("/").text
    assert "warning" not in client.get("/page/fragment").headers


def test_while_questdb_is_away_everything_grows_older_and_nothing_is_called_fresh(
    desk: Desk, client: TestClient
) -> None:
    soon = made.NOW + timedelta(minutes=5)
    desk.overview = with_(
        desk.overview,
        datasets=[made.dataset("b3_dxy_ticks", due=soon), made.dataset("b3_adjustments")],
        kpis=[made.kpi("dxy", "DXY agora", 0.26, None, "%", 2, due=soon, age_s=120.0)],
    )
    context = panels.context(desk.overview, None)
    assert "badge good" in render("fragment.html", charts_version="", **context)
    html = render("fragment.html", charts_version="", **panels.context(desk.overview, None, 3 * 3600))
    text = Outline(html).text
    assert "badge good" not in html
    assert text["late"] == "Dados atrasados: DXY ."
    assert "atrasado" in text["kpi-dxy"]
    assert "há 3 h" in text["kpi-dxy"]
    assert "esperado até 19:45:32" in text["kpi-dxy"]
    assert "atrasado" in text["dado-b3_dxy_ticks"]
    assert "não se sabe" in text["dado-b3_adjustments"]
    assert "não se sabe · há 3 h" in text["ajustes"]
    assert "de 12/01/2026 19:40" in text["stale"]
    tomorrow = panels.context(desk.overview, None, 24 * 3600)
    assert "esperado até 12/01 19:45" in Outline(render("fragment.html", charts_version="", **tomorrow)).text["kpi-dxy"]


def test_the_last_known_page_is_made_again_each_minute_of_an_outage(desk: Desk) -> None:
    async def story() -> list[str]:
        page = Page(asking(), parity_of)
        ages = (0.0, 59.0, 61.0, 3_600.0)
        return [(await page.fragment(Answer(desk.overview, age, stale=True), None)).etag for age in ages]

    first, same, minute, hour = asyncio.run(story())
    assert first == same
    assert len({first, minute, hour}) == 3


def test_without_anything_known_the_page_is_503_and_its_parts_are_problems(client: TestClient, desk: Desk) -> None:
    desk.away = True
    answer = client.get("/")
    assert answer.status_code == 503
    assert "não responde" in answer.text
    assert "page.js" in answer.text  # it tries again by itself
    for path in ("/page/fragment", "/page/charts"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.headers["retry-after"] == "5"


# Static files


def test_bokehs_script_comes_from_its_wheel_compressed_and_may_be_kept_for_ever(client: TestClient) -> None:
    address = assets.address("bokeh/bokeh.min.js")
    assert address == f"/static/bokeh/bokeh.min.js?v={bokeh.__version__}"
    packed = client.get(address, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < 400_000
    assert packed.content == assets.FILES["bokeh/bokeh.min.js"].read_bytes()
    assert "immutable" in packed.headers["cache-control"]
    plain = client.get(address, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == packed.content
    again = client.get(address, headers={"If-None-Match": packed.headers["etag"]})
    assert again.status_code == 304
    assert gzip.decompress(assets.asset("bokeh/bokeh.min.js").packed) == plain.content


@pytest.mark.parametrize("name", ["bokeh/bokeh.js", "page/../../routes.py", "page/%2e%2e/charts.py", "", "bokeh/"])
def test_no_other_file_is_given_to_anybody(client: TestClient, name: str) -> None:
    answer = client.get(f"/static/{name}")
    assert answer.status_code == 404
    assert "import" not in answer.text


# Parity


def mismatch(**other: Any) -> dict[str, Any]:
    about = {"id": 7, "at": made.NOW, "endpoint": "/ultimo-dado", "count": 3}
    bodies = {"legacy": '{"DOL":{"preco":"5.528,504"}}', "ours": b'{"DOL":{"preco":"5.528,505"}}'}
    told = {"differences": [{"pointer": "/DOL/preco", "legacy": "5.528,504", "ours": "5.528,505"}]}
    return {**about, **told, **bodies, **other}


def test_the_parity_page_lists_each_mismatch_with_both_bodies(client: TestClient, desk: Desk) -> None:
    desk.mismatches = [mismatch(), mismatch(id=8, endpoint="/gamma", legacy="no json", ours=None, differences=None)]
    html = client.get("/paridade").raise_for_status().text
    seen = Outline(html)
    first = seen.text["diferenca-7"]
    assert "/ultimo-dado 3 × 12/01/2026 19:40" in first
    assert 'pointer: "/DOL/preco" · legacy: "5.528,504" · ours: "5.528,505"' in first
    assert '"preco": "5.528,505"' in first
    assert "no json Nossa (vazia)" in seen.text["diferenca-8"]


def test_the_parity_page_says_when_nothing_differed_and_when_it_cannot_tell(client: TestClient, desk: Desk) -> None:
    text = Outline(client.get("/paridade").raise_for_status().text).text
    assert text["comparacoes"] == "3 respostas comparadas até agora: cada uma era igual à do legado. 3 iguais"
    assert text["diferencas"] == "Nenhuma diferença guardada."
    desk.parity_away = True
    answer = client.get("/paridade")
    assert answer.status_code == 503
    assert "não está disponível" in answer.text


def test_the_parity_page_claims_nothing_where_nothing_was_compared(client: TestClient, desk: Desk) -> None:
    desk.parity = replace(desk.parity, counts={"dropped": 2, "failed": 1}, quiet=quiet("legacy", True))
    text = Outline(client.get("/paridade").text).text
    assert "Nada foi comparado até agora" in text["comparacoes"]
    assert "2 não comparadas, por excesso · 1 não comparadas, por falha" in text["comparacoes"]
    assert "a fase é legado, e só em sombra" in text["comparacoes"]
    assert "igual à do legado" not in text["conteudo"]
    desk.parity = replace(desk.parity, counts={"equal": 5, "different": 1}, quiet=quiet("shadow", False))
    text = Outline(client.get("/paridade").text).text
    assert text["comparacoes"].startswith("6 respostas comparadas até agora. 5 iguais · 1 diferentes")
    assert "não conhece um lado legado" in text["comparacoes"]


def test_the_parity_page_says_how_many_are_open_of_how_many_and_how_one_is_marked(
    client: TestClient, desk: Desk
) -> None:
    desk.parity = replace(
        desk.parity, differed=Differed(70, 90, mismatches([mismatch(id=n) for n in range(1, 51)]), [])
    )
    text = Outline(client.get("/paridade").text).text["diferencas"]
    assert "70 diferenças abertas de 90 guardadas; aqui as primeiras 50, as abertas antes." in text
    assert "POST /api/v1/parity/<nº>/seen" in text
    assert "X-API-Key" in text


def test_the_parity_page_names_who_still_asks_for_the_legacy_routes(client: TestClient, desk: Desk) -> None:
    assert "ninguém nas últimas 5 sessões" in Outline(client.get("/paridade").text).text["consultas"]
    caller = Caller(made.SESSION, "10.0.0.1", "<b>planilha/1.0", "/gamma", 1_234, made.MORNING, made.NOW)
    desk.parity = replace(desk.parity, differed=Differed(0, 0, [], [caller]))
    text = Outline(client.get("/paridade").text).text["consultas"]
    assert "Quem ainda consulta o legado" in text
    assert "12/01/2026 10.0.0.1 <b>planilha/1.0 /gamma 1.234 12/01/2026 19:40" in text


def test_a_mismatch_that_somebody_saw_or_a_rule_explains_says_so(client: TestClient, desk: Desk) -> None:
    seen = {"seen_at": made.NOW, "seen_by": "ana", "seen_why": "arredondamento"}
    later = made.NOW + timedelta(minutes=5)
    desk.mismatches = [mismatch(id=1, **seen), mismatch(id=2, ignored_by=["fonte"]), mismatch(id=3, last_at=later)]
    shown = Outline(client.get("/paridade").text).text
    assert "vista por ana: arredondamento" in shown["diferenca-1"]
    assert "explicada por fonte" in shown["diferenca-2"]
    assert "12/01/2026 19:40 até 12/01/2026 19:45" in shown["diferenca-3"]


def test_a_long_body_is_cut(client: TestClient, desk: Desk) -> None:
    desk.mismatches = [mismatch(legacy="x" * 500_000)]
    html = client.get("/paridade").text
    assert "… (cortado)" in html
    assert len(html) < 100_000


def test_the_number_of_mismatches_stands_beside_the_link_to_them(client: TestClient, desk: Desk) -> None:
    assert ">Paridade</a>" in client.get("/").text
    desk.overview = desk.overview.model_copy(update={"mismatches": 1_234})
    assert 'Paridade <span class="badge bad">1.234</span>' in client.get("/").text
    desk.overview = desk.overview.model_copy(update={"mismatches": None})
    assert Outline(client.get("/").text).text["parts"].count("Paridade ?") == 1
