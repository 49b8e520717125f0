"""The panel of signals: what was known at each one's moment, and what it says when the warehouse does not."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect
from starlette.testclient import TestClient

from b3_pipeline_tests.api.page.conftest import Desk
from b3_pipeline_tests.api.page.test_routes import Outline


def panel(client: TestClient) -> str:
    return Outline(client.get("/").text).text["sinais"]


def test_each_signal_stands_beside_what_was_known_then(client: TestClient) -> None:
    text = panel(client)
    for shown in ("PETRB340", "1,52 a 1,63", "2,13 · 3,04", "DOL G26 5.387,107", "DI1 G26 99.176,82", "12,76"):
        assert shown in text
    assert "ES SP500 6.500,00, 6.700,00" in text
    assert "sinais" in Outline(client.get("/").text).ids
    assert "<b>" in text  # a ticker is a text, whatever it holds


@pytest.mark.parametrize(
    ("signals", "said"), [(None, "sem o armazém: ou nada foi carregado"), ([], "nenhum sinal até agora")]
)
def test_without_signals_it_says_why(client: TestClient, desk: Desk, signals: Any, said: str) -> None:
    desk.overview = desk.overview.model_copy(update={"signals": signals})
    assert said in panel(client)


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_a_reader_sees_the_signals_and_those_that_come_later(look: Any, desk: Desk) -> None:
    assert desk.overview.signals is not None
    later = desk.overview.signals
    desk.overview = desk.overview.model_copy(update={"signals": []})
    seen = look("/#sinais")
    expect(seen.page.locator("#sinais .empty")).to_have_text("nenhum sinal até agora")
    desk.overview = desk.overview.model_copy(update={"signals": later})
    rows = seen.page.locator("#signals tbody tr")
    expect(rows).to_have_count(2, timeout=20_000)
    expect(rows.first).to_contain_text("PETRB340")
    assert seen.complaints == []
