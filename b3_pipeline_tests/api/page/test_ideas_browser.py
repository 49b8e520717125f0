"""The ideas in Debian's Chromium, over the whole service and a real PostgreSQL: what is read, changed, and disputed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect
from psycopg import sql
from psycopg.rows import dict_row

from b3_pipeline.api.app import everything
from b3_pipeline.api.page.ideas import A_COLUMN, STATUS_NAMES
from b3_pipeline.lowdb.model import FILE_NAMES, STATUSES
from b3_pipeline.lowdb.schema import upgrade
from b3_pipeline_tests.api.page.conftest import Seen, Server
from b3_pipeline_tests.conftest import free_port_base
from b3_pipeline_tests.lowdb.recorded import gone, load
from b3_pipeline_tests.waiting import until

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]

KEY = "a-key-of-the-desk"
HOSTILE = '<script>document.title="hacked"</script><img src=x onerror="document.title=1">'


@pytest.fixture
def dsn(postgres: str, shared: Path, tmp_path: Path) -> str:
    """A PostgreSQL into which the clean LowDB folder was loaded."""
    gone(postgres)
    upgrade(postgres)
    for name in FILE_NAMES:
        load(postgres, tmp_path, shared / "data/lowdb/clean" / name)
    return postgres


@pytest.fixture
def served(home: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("B3_API_KEY", KEY)
    server = Server(everything, free_port_base())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def board(look: Any) -> Any:
    """Opens a page of the ideas: `board("/ideias", width=360)`."""
    return partial(look, wait=False)


def stored(dsn: str, number: int) -> dict[str, Any]:
    with psycopg.connect(dsn) as db, db.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("select * from ideas.ideas where id = %s", (number,)).fetchone()
    assert row is not None
    return row


def change(dsn: str, number: int, who: str = "bia", **columns: Any) -> None:
    """What a second writer does meanwhile."""
    with psycopg.connect(dsn) as db:
        db.execute("select set_config('b3.who', %s, true)", (who,))
        for column, value in columns.items():
            name = sql.Identifier(column)
            db.execute(sql.SQL("update ideas.ideas set {} = %s where id = %s").format(name), (value, number))


def identify(page: Page, who: str = "ana", key: str = KEY) -> None:
    asked = page.get_by_role("dialog", name="Quem muda")
    asked.get_by_label("Seu nome").fill(who)
    asked.get_by_label("Chave").fill(key)
    asked.get_by_role("button", name="Continuar").click()


def opened(page: Page, number: int) -> Locator:
    """An idea of the board, opened to be changed."""
    page.locator(f"#cartao-{number} h3 a").click()
    idea = page.locator("#ideia")
    idea.get_by_text("Mudar esta ideia").click()
    return idea


def cards(page: Page) -> list[str]:
    return page.locator(".card").evaluate_all("cards => cards.map((card) => card.dataset.id)")


def test_the_values_on_the_board_equal_the_table(board: Any, dsn: str) -> None:
    seen: Seen = board("/ideias")
    with psycopg.connect(dsn) as db:
        counts = dict(db.execute("select status, count(*) from ideas.ideas group by 1").fetchall())
        titles = dict(db.execute("select id::text, title from ideas.ideas").fetchall())
        expected = [
            str(number)
            for status in STATUSES
            for (number,) in db.execute(
                "select id from ideas.ideas where status = %s order by id limit %s", (status, A_COLUMN)
            )
        ]
    assert cards(seen.page) == expected
    for status in STATUSES:
        head = seen.page.locator(f"#coluna-{status} > .head")
        expect(head).to_contain_text(f"{STATUS_NAMES[status]}{counts[status]} ideias", use_inner_text=False)
    for number in expected:
        expect(seen.page.locator(f"#cartao-{number} h3")).to_have_text(titles[number])
    assert seen.complaints == []


def test_filters_and_search_work_without_loading_the_page_again_and_the_way_back_does_too(board: Any, dsn: str) -> None:
    seen: Seen = board("/ideias")
    page = seen.page
    page.evaluate("window.same = true")
    page.get_by_label("Categoria").select_option("dashboard")
    with psycopg.connect(dsn) as db:
        of_category = db.execute("select count(*) from ideas.ideas where category = 'dashboard'").fetchall()[0][0]
    expect(page.locator("#contagem")).to_have_text(f"{of_category} ideias")
    page.get_by_label("Busca").press_sequentially("exportacao")
    with psycopg.connect(dsn) as db:
        found = db.execute(
            "select id::text from ideas.ideas where category = 'dashboard' and search @@ 'exportacao:*'::tsquery"
        ).fetchall()
    expect(page.locator("#contagem")).to_have_text(f"{len(found)} ideias")
    assert set(cards(page)) == {number for (number,) in found}
    assert page.evaluate("document.activeElement.name") == "busca"
    assert page.url.endswith("/ideias?busca=exportacao&categoria=dashboard")
    page.get_by_role("link", name="Limpar filtros").click()
    expect(page.get_by_label("Busca")).to_have_value("")
    page.go_back()
    expect(page.get_by_label("Busca")).to_have_value("exportacao")
    expect(page.locator("#contagem")).to_have_text(f"{len(found)} ideias")
    assert page.evaluate("window.same") is True
    assert seen.complaints == []


def test_a_tag_of_a_card_filters_and_more_shows_one_column(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    tag = page.locator(".card .tags a").first
    word = tag.inner_text()
    tag.click()
    expect(page.get_by_label("Etiqueta", exact=True)).to_have_value(word)
    with psycopg.connect(dsn) as db:
        [(number,)] = db.execute("select count(*) from ideas.ideas where %s = any(tags)", (word,)).fetchall()
    expect(page.locator("#contagem")).to_have_text(f"{number} ideias")
    page.get_by_role("link", name="Limpar filtros").click()
    page.locator("#coluna-review").get_by_role("link", name="mais").click()
    expect(page.locator(".column")).to_have_count(1)
    expect(page.locator("#filtros [name=situacao]")).to_have_value("review")
    assert len(cards(page)) > A_COLUMN


def test_an_idea_is_changed_under_a_name_and_a_key_that_are_asked_for_once(board: Any, dsn: str) -> None:
    seen: Seen = board("/ideias")
    page = seen.page
    idea = opened(page, 1)
    idea.get_by_label("Título").fill(HOSTILE)
    idea.get_by_label("Etiquetas, uma por linha").fill("gamma\n\n a, b ")
    idea.get_by_role("button", name="Gravar").click()
    identify(page, key="wrong")
    expect(page.get_by_text("A chave não foi aceita.")).to_be_visible()
    assert stored(dsn, 1)["title"] != HOSTILE
    identify(page)
    expect(page.locator("#notice")).to_have_text("Ideia 1 gravada.")
    expect(page.locator("#cartao-1 h3")).to_have_text(HOSTILE)
    expect(page.locator("#cartao-1 h3 a")).to_be_focused()
    row = stored(dsn, 1)
    assert (row["title"], row["tags"]) == (HOSTILE, ["gamma", "a, b"])
    idea = opened(page, 1)
    expect(idea.locator("#historico")).to_contain_text("ana mudou")
    idea.get_by_label("Prioridade").select_option("critical")
    idea.get_by_role("button", name="Gravar").click()
    expect(page.locator("#cartao-1 .priority")).to_have_text("prioridade crítica")
    assert page.title() == "Ideias · Mercado B3"
    # the refused key is the only complaint: the browser's own line about the 403
    assert all("403" in complaint for complaint in seen.complaints)


def test_a_change_that_somebody_else_was_faster_with_is_shown_and_both_can_be_kept(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    idea = opened(page, 1)
    idea.get_by_label("Título").fill("O meu título")
    change(dsn, 1, title="O título da Bia", priority="critical")
    idea.get_by_role("button", name="Gravar").click()
    identify(page)
    notice = page.get_by_role("region", name="Esta ideia mudou entretanto")
    expect(notice).to_contain_text("bia mudou em")
    rows = {row.split("\t")[0]: row.split("\t")[1:] for row in notice.locator("tbody tr").all_inner_texts()}
    assert rows == {
        "Título": ["Exportação coleta painel", "O título da Bia", "O meu título"],
        "Prioridade": ["baixa", "crítica", "sem mudança"],
    }
    assert stored(dsn, 1)["title"] == "O título da Bia"
    notice.get_by_role("button", name="Gravar as suas mudanças").click()
    expect(page.locator("#notice")).to_have_text("Ideia 1 gravada.")
    row = stored(dsn, 1)
    assert (row["title"], row["priority"]) == ("O meu título", "critical")  # what only she had changed stays hers


def test_the_version_of_somebody_else_can_be_kept(board: Any, dsn: str) -> None:
    page = board("/ideias/1").page
    idea = page.locator("#ideia")
    idea.get_by_text("Mudar esta ideia").click()
    idea.get_by_label("Título").fill("O meu título")
    change(dsn, 1, title="O título da Bia")
    idea.get_by_role("button", name="Gravar").click()
    identify(page, who="João Łę")
    page.get_by_role("button", name="Ficar com a versão da outra pessoa").click()
    expect(page.locator("#ideia-titulo")).to_have_text("O título da Bia")
    expect(page.locator("#ideia-titulo")).to_be_focused()
    assert stored(dsn, 1)["title"] == "O título da Bia"
    idea = page.locator("#ideia")
    idea.get_by_text("Mudar esta ideia").click()
    idea.get_by_label("Descrição").fill("nova")
    idea.get_by_role("button", name="Gravar").click()
    expect(page.locator(".written")).to_have_text("nova")
    expect(page.locator("#historico li").first).to_contain_text("João Łę mudou")


def test_a_card_is_moved_by_keyboard_alone(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    before = stored(dsn, 1)
    select = page.get_by_label(f"Situação de {before['title']}").first
    select.focus()
    page.keyboard.press("ArrowDown")  # from review to in-progress
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Seu nome")).to_be_focused()
    page.keyboard.type("ana")
    page.keyboard.press("Tab")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("Ideia 1: Em andamento.")
    expect(page.locator("#coluna-in-progress #cartao-1")).to_be_visible()
    assert {**stored(dsn, 1), "updated_at": None} == {**before, "status": "in-progress", "updated_at": None}


def test_a_card_that_is_no_longer_as_it_was_is_opened_instead_of_moved(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    change(dsn, 1, title="O título da Bia")
    card = page.locator("#cartao-1")
    card.locator("select").select_option("completed")
    card.get_by_role("button", name="Mover").click()
    identify(page)
    idea = page.locator("#ideia")
    expect(idea.get_by_role("alert")).to_contain_text("mudou desde que o quadro foi lido")
    expect(idea.get_by_label("Situação")).to_have_value("completed")
    assert stored(dsn, 1)["status"] == "review"
    idea.get_by_role("button", name="Gravar").click()
    expect(page.locator("#coluna-completed #cartao-1")).to_have_count(1)


def test_an_idea_is_made_and_taken_away_again_after_a_question(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    with psycopg.connect(dsn) as db:
        [(last,)] = db.execute("select max(id) from ideas.ideas").fetchall()
    page.get_by_role("link", name="Nova ideia").click()
    idea = page.locator("#ideia")
    idea.get_by_label("Título").fill("   ")
    idea.get_by_role("button", name="Criar").click()
    assert idea.get_by_label("Título").evaluate("(field) => field.validity.patternMismatch")
    idea.get_by_label("Título").fill("Uma ideia nova")
    idea.get_by_role("button", name="Criar").click()
    identify(page)
    expect(page.locator("#notice")).to_have_text(f"Ideia {last + 1} criada.")
    assert stored(dsn, last + 1)["title"] == "Uma ideia nova"
    page.get_by_label("Busca").fill("uma ideia nova")
    expect(page.locator("#contagem")).to_have_text("1 ideia")
    idea = opened(page, last + 1)
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    idea.get_by_role("button", name="Apagar").click()
    assert asked == [f"Apagar a ideia {last + 1}, “Uma ideia nova”?"]
    assert stored(dsn, last + 1)
    page.once("dialog", lambda dialog: dialog.accept())
    idea.get_by_role("button", name="Apagar").click()
    expect(page.locator("#contagem")).to_have_text("0 ideias")


def test_what_was_typed_is_given_up_only_after_a_question(board: Any) -> None:
    page = board("/ideias").page
    window, title = page.locator("#janela"), page.locator("#ideia").get_by_label("Título")
    asked: list[str] = []
    opened(page, 1)
    page.keyboard.press("Escape")  # nothing was typed: no question
    expect(window).to_be_hidden()
    opened(page, 1)
    title.fill("O meu título")
    for close in (lambda: page.keyboard.press("Escape"), page.get_by_role("button", name="Fechar").click):
        page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
        close()
        expect(title).to_have_value("O meu título")
    assert asked == ["Descartar o que escreveu nesta ideia?"] * 2
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Escape")
    expect(window).to_be_hidden()


def test_a_status_that_is_chosen_and_not_moved_yet_outlives_coming_back_to_the_page(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    change(dsn, int(cards(page)[1]), title="Outro título")
    status = page.locator(".card select").first
    status.select_option("completed")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(status).to_have_value("completed")
    assert asked == []
    status.select_option("new")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator(".card h3").nth(1)).to_have_text("Outro título")


def test_the_browser_is_not_asked_to_keep_the_key(board: Any) -> None:
    page = board("/ideias").page
    kept = page.locator("#quem input").evaluate_all("fields => fields.map((field) => field.autocomplete)")
    assert kept == ["off", "new-password"]


def test_an_idea_that_somebody_took_away_is_told_and_what_was_written_stays(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    idea = opened(page, 1)
    idea.get_by_label("Título").fill("O meu título")
    with psycopg.connect(dsn) as db:
        db.execute("delete from ideas.ideas where id = 1")
    idea.get_by_role("button", name="Gravar").click()
    identify(page)
    expect(idea.get_by_role("alert")).to_contain_text("já não existe")
    expect(idea.get_by_label("Título")).to_have_value("O meu título")


def test_who_gives_no_key_changes_nothing_and_is_told_so(board: Any, dsn: str) -> None:
    page = board("/ideias/1").page
    idea = page.locator("#ideia")
    idea.get_by_text("Mudar esta ideia").click()
    idea.get_by_label("Título").fill("O meu título")
    idea.get_by_role("button", name="Gravar").click()
    page.keyboard.press("Escape")
    expect(idea.get_by_role("alert")).to_have_text("Nada foi mudado.")
    assert stored(dsn, 1)["title"] != "O meu título"


def test_a_server_that_is_gone_is_told(board: Any, served: Server) -> None:
    page = board("/ideias").page
    idea = opened(page, 1)
    served.stop()
    idea.get_by_label("Título").fill("x")
    idea.get_by_role("button", name="Gravar").click()
    identify(page)
    expect(idea.get_by_role("alert")).to_contain_text("O servidor não responde")
    served.start()
    idea.get_by_role("button", name="Gravar").click()
    expect(page.locator("#cartao-1 h3")).to_have_text("x")


@pytest.mark.parametrize("width", [360, 768, 3840])
def test_no_width_needs_sideways_scrolling(board: Any, dsn: str, width: int) -> None:
    change(dsn, 1, title="W" * 300, tags=["T" * 100])
    for address in ("/ideias", "/ideias/1", "/sistemas"):
        page = board(address, width=width, height=800).page
        assert page.evaluate("document.documentElement.scrollWidth") == width, address
    page = board("/ideias", width=width, height=800).page
    opened(page, 1)
    dialog = page.locator("#janela")
    assert dialog.evaluate("(d) => d.scrollWidth <= d.clientWidth && d.getBoundingClientRect().right <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(board: Any, dsn: str, scheme: str) -> None:
    options = {"color_scheme": scheme, "bypass_csp": True, "reduced_motion": "reduce"}
    few = "/ideias?categoria=dashboard&prioridade=low"
    for address in (few, "/sistemas", "/ideias/nova"):
        results = Axe().run(board(address, **options).page)
        assert results.violations_count == 0, results.generate_report()
    page = board(few, **options).page
    idea = opened(page, 1)
    idea.get_by_label("Título").fill("O meu título")
    change(dsn, 1, title="O título da Bia")
    idea.get_by_role("button", name="Gravar").click()
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    identify(page)
    expect(page.get_by_role("region", name="Esta ideia mudou entretanto")).to_be_visible()
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_without_javascript_the_board_is_for_reading_and_its_filters_work(board: Any) -> None:
    page = board("/ideias", java_script_enabled=False).page
    page.get_by_label("Categoria").select_option("dashboard")
    page.get_by_role("button", name="Filtrar").click()
    assert "categoria=dashboard" in page.url
    expect(page.get_by_label("Categoria")).to_have_value("dashboard")
    expect(page.get_by_role("link", name="Nova ideia")).to_have_count(0)
    page.locator(".card h3 a").first.click()
    expect(page.locator("#historico")).to_contain_text("criou")
    expect(page.get_by_text("Mudar esta ideia")).to_be_hidden()


def test_paper_has_the_ideas_and_nothing_to_click(board: Any) -> None:
    page = board("/ideias").page
    page.emulate_media(media="print")
    for hidden in ("#filtros", "nav", ".move", ".button"):
        expect(page.locator(hidden).first).to_be_hidden()
    expect(page.locator("#cartao-1")).to_be_visible()


def test_the_key_is_kept_nowhere(board: Any, dsn: str) -> None:
    page = board("/ideias").page
    idea = opened(page, 1)
    idea.get_by_label("Título").fill("x")
    idea.get_by_role("button", name="Gravar").click()
    identify(page)
    until(lambda: stored(dsn, 1)["title"] == "x")
    expect(page.locator("#notice")).to_have_text("Ideia 1 gravada.")
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert KEY not in kept
    assert KEY not in page.content()
