"""`/corte`: the phase, and the gates as they were last seen; `/api/v1/cutover` has the same."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from fastapi.testclient import TestClient

from b3_pipeline.api.app import everything
from b3_pipeline.api.page.cutover import GATES
from b3_pipeline.cutover import gates, looked
from b3_pipeline.cutover.gates import Gate
from b3_pipeline.cutover.looked import Looked

AT = datetime(2025, 10, 14, 11, tzinfo=UTC)
SEEN = [
    Gate("schema", ok=True, evidence="Every table is as contracted."),
    Gate("parity", ok=False, evidence=f"{gates.UNSEEN}: Permission denied: /srv/secret"),
    Gate("archive", ok=False, evidence="Not loaded yet: <b>gamma</b> by 2 entries."),
]


def test_every_gate_has_a_name_for_the_desk() -> None:
    assert {domain: set(names) for domain, names in GATES.items()} == {
        domain: set(names) for domain, names in gates.WHAT_TO_DO.items()
    }


def test_the_gates_are_shown_as_they_were_last_seen_without_a_path(home: Path) -> None:
    with TestClient(everything(), base_url="http://127.0.0.1") as client:
        assert "ninguém as olhou nesta fase" in client.get("/corte").text
        assert client.get("/api/v1/cutover").json()["looked"] is None
        looked.keep(home, "market", Looked(AT, "legacy", "shadow", SEEN))
        html = client.get("/corte").raise_for_status().text
        for said in (
            "Fase <strong>legado</strong>",
            "1 de 3",
            "Paridade do histórico",
            "&lt;b&gt;gamma",
            "14/10/2025 08:00",
        ):
            assert said in html
        assert "/srv/secret" not in html
        assert "<b>" not in html
        assert len(re.findall("vermelha", html)) == 2


def test_the_ideas_are_shown_beside_the_market_data_with_gates_of_their_own(home: Path) -> None:
    files = Gate("files", ok=False, evidence="Somebody has written ideas.json.", domain="ideas")
    looked.keep(home, "ideas", Looked(AT, "legacy", "shadow", [files]))
    with TestClient(everything(), base_url="http://127.0.0.1") as client:
        html = client.get("/corte").raise_for_status().text
    assert "Mercado: dos arquivos ao QuestDB" in html
    assert "Ideias: do LowDB ao PostgreSQL" in html
    assert "Ninguém escreve nos arquivos do LowDB" in html
    assert gates.WHAT_TO_DO["ideas"]["files"] in html
    assert looked.latest(home, "ideas") == Looked(AT, "legacy", "shadow", [files])


def test_what_was_seen_in_another_phase_is_not_shown(home: Path) -> None:
    looked.keep(home, "market", Looked(AT, "shadow", "active", SEEN))
    with TestClient(everything(), base_url="http://127.0.0.1") as client:
        assert "ninguém as olhou nesta fase" in client.get("/corte").text
        assert client.get("/api/v1/cutover").json()["looked"] is None


def test_the_api_gives_them_to_programs(home: Path) -> None:
    looked.keep(home, "market", Looked(AT, "legacy", "shadow", SEEN))
    with TestClient(everything(), base_url="http://127.0.0.1") as client:
        found = client.get("/api/v1/cutover").json()["looked"]
    assert (found["at"], found["to"]) == ("2025-10-14T11:00:00Z", "shadow")
    assert [(gate["name"], gate["ok"], bool(gate["what_to_do"])) for gate in found["gates"]] == [
        ("schema", True, False),
        ("parity", False, True),
        ("archive", False, True),
    ]
    assert "/srv" not in str(found)


def test_a_look_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    looked.keep(tmp_path, "market", Looked(AT, "legacy", "shadow", SEEN))
    assert looked.latest(tmp_path, "market") == Looked(AT, "legacy", "shadow", SEEN)
    for text in ("", "[]", "{}", '{"gates": [{"x": 1}]}'):
        (tmp_path / "cutover" / "market-gates.json").write_text(text)
        assert looked.latest(tmp_path, "market") is None
