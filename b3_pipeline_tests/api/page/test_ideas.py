"""`/ideias` and `/sistemas` as the server renders them, over the files of a LowDB folder."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from b3_pipeline.api.page import ideas, systems
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.model import CATEGORIES, IDEAS, PRIORITIES, STATUSES, Collection
from b3_pipeline.lowdb.store import Change, NoSuchRecord, Store, StoreAway
from b3_pipeline_tests.api.page.conftest import Desk, app_of
from b3_pipeline_tests.api.page.test_routes import Outline

NOW = datetime(2025, 11, 14, 15, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script> & Cia'


class Away(Files):
    """Files that nobody can read."""

    async def page(self, collection: Collection, asked: Any) -> Any:
        raise StoreAway("PostgreSQL does not answer.")

    async def get(self, collection: Collection, id: int) -> Any:
        raise StoreAway("PostgreSQL does not answer.")


class Old(Files):
    """Files that answer for tables which do not."""

    @property
    def as_of(self) -> Any:
        return NOW

    async def history(self, idea_id: int, limit: int) -> list[Change]:
        raise StoreAway("PostgreSQL does not answer.")


class Remembered(Files):
    """Files with a history of the first idea."""

    async def history(self, idea_id: int, limit: int) -> list[Change]:
        now = (await self.get(IDEAS, idea_id)).record
        before = {**now, "status": "new", "tags": [], "description": "x" * 1_000}
        return [Change(2, NOW, HOSTILE, "update", before, now), Change(1, NOW, "etl", "insert", None, before)]


@dataclass
class IdeasDesk:
    """What the pages ask of the service."""

    ideas: Store
    dagster_url: str = "http://127.0.0.1:8801"
    now: Any = field(default=lambda: NOW)


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared / "data/lowdb/clean", tmp_path / "lowdb"))


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with asking(Files(folder, lambda: NOW)) as client:
        yield client


def asking(store: Store) -> TestClient:
    desk: Any = IdeasDesk(store)
    typed: Desk = desk
    return TestClient(app_of(typed))


def rewrite(folder: Path, file: str, **members: Any) -> None:
    """Puts other members into a LowDB file."""
    document = json.loads((folder / file).read_text("utf-8"))
    (folder / file).write_text(json.dumps({**document, **members}), "utf-8")


def known(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "ideas.json").read_text("utf-8"))["ideas"]


def page_of(client: TestClient, address: str) -> Outline:
    return Outline(client.get(address).raise_for_status().text)


def test_every_code_has_a_word_of_the_desks() -> None:
    assert list(ideas.STATUS_NAMES) == list(STATUSES)
    assert list(ideas.PRIORITY_NAMES) == list(PRIORITIES)
    assert list(ideas.CATEGORY_NAMES) == list(CATEGORIES)
    assert set(ideas.FIELD_NAMES) == {f.name for f in IDEAS.fields} - {"id", "createdAt", "updatedAt"}


def test_the_board_has_a_column_a_status_with_its_first_ideas_and_how_many_there_are(
    client: TestClient, folder: Path
) -> None:
    seen = page_of(client, "/ideias")
    assert [name for name in seen.ids if name.startswith("coluna-") and not name.endswith("titulo")] == [
        f"coluna-{status}" for status in STATUSES
    ]
    for status in STATUSES:
        there = sorted((idea for idea in known(folder) if idea["status"] == status), key=lambda idea: int(idea["id"]))
        text = seen.text[f"coluna-{status}"]
        assert text.startswith(f"{ideas.STATUS_NAMES[status]} {len(there)} ideias")
        shown = there[: ideas.A_COLUMN]
        assert all(idea["title"] in seen.text[f"cartao-{idea['id']}"] for idea in shown)
        assert f"cartao-{there[ideas.A_COLUMN]['id']}" not in seen.ids
    assert seen.text["contagem"] == f"{len(known(folder))} ideias"


def test_more_of_a_column_is_that_column_alone_in_pages(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ideas, "A_PAGE", 25)
    of_status = [idea["id"] for idea in known(folder) if idea["status"] == "new"]
    shown: list[str] = []
    address: str | None = "/ideias?situacao=new"
    assert address in page_of(client, "/ideias").links
    for page in range(1, -(-len(of_status) // 25) + 1):
        assert address is not None
        seen = page_of(client, address)
        shown += [name.removeprefix("cartao-") for name in seen.ids if name.startswith("cartao-")]
        later = f"/ideias?situacao=new&pagina={page + 1}"
        address = later if later in seen.links else None
    assert address is None
    assert sorted(shown) == sorted(of_status)
    assert "nenhuma nesta página" in page_of(client, "/ideias?situacao=new&pagina=1000").text["quadro"]


def test_filters_and_search_narrow_the_board_and_stay_in_the_links(client: TestClient, folder: Path) -> None:
    wanted = [
        idea
        for idea in known(folder)
        if idea["category"] == "dashboard" and idea["priority"] == "high" and "delta" in idea["tags"]
    ]
    seen = page_of(client, "/ideias?categoria=dashboard&prioridade=high&etiqueta=delta&busca=&situacao=")
    assert wanted
    assert {name for name in seen.ids if name.startswith("cartao-")} == {f"cartao-{idea['id']}" for idea in wanted}
    assert any(link.startswith("/ideias?categoria=dashboard&prioridade=high&etiqueta=") for link in seen.links)
    found = page_of(client, "/ideias?busca=EXPORTACAO%20pain")
    titles = [idea["title"] for idea in known(folder) if f"cartao-{idea['id']}" in found.ids]
    assert titles
    assert len(titles) < len(known(folder))


@pytest.mark.parametrize(
    "query",
    ["categoria=x", "prioridade=HIGH", "situacao=done", "pagina=0", "pagina=x", "busca=%00", f"busca={'x' * 201}"],
)
def test_what_cannot_be_asked_for_is_a_bad_request(client: TestClient, query: str) -> None:
    assert client.get(f"/ideias?{query}").status_code == 400


def test_a_text_is_text_whatever_is_in_it(client: TestClient, folder: Path) -> None:
    hostile = {**known(folder)[0], "title": HOSTILE, "description": "</textarea><b>\n\nx", "tags": ['"><i>', "a&b"]}
    rewrite(folder, "ideas.json", ideas=[hostile])
    for address in ("/ideias", "/ideias/1"):
        html = client.get(address).raise_for_status().text
        assert not any(each in html for each in ("<script>alert", "<b>", "<i>", '"x"'))
        seen = Outline(html)
        assert seen.inline == []
        assert HOSTILE in seen.text["conteudo"]
    assert page_of(client, "/ideias?etiqueta=%22%3E%3Ci%3E&busca=%22%3E").text["contagem"] == "1 ideia"


def test_an_idea_has_a_page_with_all_of_it(client: TestClient, folder: Path) -> None:
    idea = known(folder)[0]
    text = page_of(client, "/ideias/1").text["ideia"]
    for said in (idea["title"], idea["description"], *idea["tags"], "criada em 25/06/2025 08:02", "sem histórico"):
        assert said in text


def test_the_history_says_what_became_of_each_field(folder: Path) -> None:
    with asking(Remembered(folder, lambda: NOW)) as client:
        text = page_of(client, "/ideias/1").text["historico"]
    assert f"14/11/2025 12:00 {HOSTILE} mudou" in text
    assert "Situação: Nova → Em análise" in text
    assert "Etiquetas: (nada) → coleta, tendência" in text
    assert f"{'x' * ideas.SHOWN_TEXT}… →" in text
    assert "etl criou" in text


@pytest.mark.parametrize(("address", "status"), [("/ideias/9999", 404), ("/ideias/0", 400), (f"/ideias/{10**30}", 400)])
def test_an_idea_that_is_not_there_is_told(client: TestClient, address: str, status: int) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    if status == 404:
        assert "Não há ideia nº 9999" in Outline(answer.text).text["conteudo"]


def test_no_ideas_at_all_and_none_with_these_filters_are_told_apart(client: TestClient, folder: Path) -> None:
    assert "Nenhuma ideia com estes filtros" in page_of(client, "/ideias?busca=xyzzy").text["quadro"]
    rewrite(folder, "ideas.json", ideas=[])
    assert "Nenhuma ideia até agora" in page_of(client, "/ideias").text["quadro"]


@pytest.mark.parametrize("address", ["/ideias", "/ideias/1", "/sistemas"])
def test_a_store_that_is_away_is_told_and_asked_again_later(folder: Path, address: str) -> None:
    with asking(Away(folder, lambda: NOW)) as client:
        answer = client.get(address)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "o PostgreSQL não responde" in Outline(answer.text).text["conteudo"]


@pytest.mark.parametrize("address", ["/ideias", "/ideias/1", "/sistemas"])
def test_what_the_files_say_for_the_tables_is_marked_as_old(folder: Path, address: str) -> None:
    with asking(Old(folder, lambda: NOW)) as client:
        seen = page_of(client, address)
    assert "é tudo como estava em 14/11/2025 12:00" in seen.text["stale"]
    assert "histórico não está disponível" in seen.text.get("historico", "o histórico não está disponível")


@pytest.mark.parametrize("address", ["/ideias", "/ideias/1", "/ideias/nova", "/sistemas"])
def test_ids_are_unique_and_all_pages_have_the_same_navigation(client: TestClient, address: str) -> None:
    seen = page_of(client, address)
    assert len(seen.ids) == len(set(seen.ids))
    assert {"/", "/ideias", "/sistemas", "/paridade", "/corte", "/docs"} <= set(seen.links)
    assert seen.inline == []


def test_each_system_has_a_row_and_its_statistics_are_those_of_all(client: TestClient, folder: Path) -> None:
    seen = page_of(client, "/sistemas")
    document = json.loads((folder / "db.json").read_text("utf-8"))
    for system in document["systems"]:
        text = seen.text[f"sistema-{system['id']}"]
        for said in (system["name"], system["shortName"], str(system["port"]), system["color"], system["icon"]):
            assert said in text
    for status, (word, _look) in systems.STANDING.items():
        number = sum(system["status"] == status for system in document["systems"])
        assert f"{number} {word}" in seen.text["sistemas"]


def test_ideas_on_the_documentation_come_with_their_links_and_files(client: TestClient, folder: Path) -> None:
    document = json.loads((folder / "db.json").read_text("utf-8"))
    seen: dict[str, str] = {}
    for page in range(1, 13):
        seen |= page_of(client, f"/sistemas?ideias={page}").text
    assert "mais" not in page_of(client, "/sistemas?ideias=12").text["documentacao"].split("página 12 de 12")[1]
    for idea in document["ideas"]:
        assert idea["title"] in seen[f"documentacao-{idea['id']}"]
    for link in document["links"]:
        assert f"{link['title']} {link['url']}" in seen[f"documentacao-{link['idea_id']}"]
    for file in document["files"]:
        assert file["original_name"] in seen[f"documentacao-{file['idea_id']}"]


def test_only_links_to_pages_can_be_followed_and_only_colours_are_drawn(client: TestClient, folder: Path) -> None:
    document = json.loads((folder / "db.json").read_text("utf-8"))
    link = {**document["links"][0], "idea_id": "1", "url": "javascript:alert(1)", "title": HOSTILE}
    system = {**document["systems"][0], "color": 'url("http://x")', "name": HOSTILE, "status": "parado"}
    rewrite(folder, "db.json", links=[link], systems=[system])
    html = client.get("/sistemas").raise_for_status().text
    seen = Outline(html)
    assert "javascript:alert(1)" in seen.text["documentacao-1"]
    assert "javascript:alert(1)" not in seen.links
    assert "<svg" not in html
    assert HOSTILE in seen.text["sistema-1"]
    assert "1 parado" in seen.text["sistemas"]


@pytest.mark.parametrize(
    ("of_bytes", "told"),
    [(0, (0, 0, "B")), (999, (999, 0, "B")), (5_921_846, (5.921846, 1, "MB")), (10**16, (10_000, 1, "TB"))],
)
def test_sizes_are_told_in_units_of_a_thousand(of_bytes: int, told: tuple[float, int, str]) -> None:
    assert systems.size(of_bytes) == pytest.approx(told)


def test_an_idea_that_is_gone_from_the_history_is_still_shown(folder: Path) -> None:
    class Unknown(Files):
        async def history(self, idea_id: int, limit: int) -> list[Change]:
            raise NoSuchRecord("There is none.")

    with asking(Unknown(folder, lambda: NOW)) as client:
        assert "sem histórico" in page_of(client, "/ideias/1").text["historico"]


def test_a_card_shows_the_first_tags_and_how_many_more_there_are(client: TestClient, folder: Path) -> None:
    tags = [f"t{number}" for number in range(25)]
    rewrite(folder, "ideas.json", ideas=[{**known(folder)[0], "tags": tags}])
    seen = page_of(client, "/ideias")
    assert "t19 e mais 5" in seen.text["cartao-1"]
    assert "t20" not in seen.text["cartao-1"]
    assert "t24" in page_of(client, "/ideias/1").text["ideia"]


def test_a_column_is_counted_no_further_than_people_need(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ideas, "COUNTED", 45)
    counts = {status: sum(idea["status"] == status for idea in known(folder)) for status in STATUSES}
    seen = page_of(client, "/ideias")
    for status, number in counts.items():
        told = f"{number} ideias" if number <= 45 else "45+ ideias"
        assert seen.text[f"coluna-{status}"].startswith(f"{ideas.STATUS_NAMES[status]} {told}")
    assert seen.text["contagem"] == f"{sum(min(number, 45) for number in counts.values())}+ ideias"


@pytest.mark.parametrize("address", ["/ideias?pagina=", "/sistemas?sistemas=", "/sistemas?ideias="])
def test_pages_end_somewhere(client: TestClient, address: str) -> None:
    assert client.get(f"{address}{ideas.LAST_PAGE}").status_code == 200
    assert client.get(f"{address}{ideas.LAST_PAGE + 1}").status_code in (400, 422)


def test_a_page_is_written_away_from_the_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []

    def rendered(*_template: str, **_values: Any) -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            threads.append(True)
        return ""

    monkeypatch.setattr(ideas, "render", rendered)
    for address in ("/ideias", "/ideias/1", "/ideias/nova", "/sistemas"):
        client.get(address).raise_for_status()
    assert threads == [True] * 4
