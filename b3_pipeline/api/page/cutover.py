"""What `/corte` shows of each domain: the phase, and the gates of the next step as `b3 cutover` last saw them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from b3_pipeline.api.page.panels import PHASES
from b3_pipeline.api.service import Service
from b3_pipeline.cutover import looked
from b3_pipeline.postgres.flags import IDEAS, MARKET, PHASE

_SAFE: Mapping[str, str] = {
    "alerts": "Nenhum alerta aberto",
    "backup": "Backup verificado de menos de um dia",
}
#: By domain its title on the page, and its gates as the desk reads them.
TITLES: Mapping[str, str] = {MARKET: "Mercado: dos arquivos ao QuestDB", IDEAS: "Ideias: do LowDB ao PostgreSQL"}
GATES: Mapping[str, Mapping[str, str]] = {
    MARKET: {
        "schema": "Tabelas como no contrato",
        "parity": "Paridade do histórico",
        "last_session": "Paridade da última sessão",
        "freshness": "Tabelas em dia",
        "archive": "Arquivo bruto carregado",
        "mismatches": "Nenhuma diferença aberta",
        "comparisons": "Captura composta igual à do legado",
        "legacy_files": "Arquivos do legado ainda escritos",
        "callers": "Ninguém consulta as rotas do legado",
        **_SAFE,
    },
    IDEAS: {
        "schema": "Esquema na versão deste sistema",
        "parity": "Tabelas iguais aos arquivos do LowDB",
        "mismatches": "Nenhuma diferença aberta",
        "comparisons": "Respostas comparadas nesta fase",
        "files": "Ninguém escreve nos arquivos do LowDB",
        **_SAFE,
    },
}


async def of_service(service: Service) -> dict[str, Any]:
    """What the page is made of. Never fails."""
    return {
        "names": PHASES,
        "stale": service.flags.stale,
        "domains": [await _of_domain(service, domain) for domain in GATES],
    }


async def _of_domain(service: Service, domain: str) -> dict[str, Any]:
    entry = service.flags.entries[domain, PHASE.name]
    found = await asyncio.to_thread(looked.latest, service.settings.home, domain)
    return {
        "name": domain,
        "title": TITLES[domain],
        "gates": GATES[domain],
        "phase": PHASES[entry.value],
        "since": entry.since,
        "who": entry.who,
        "why": entry.why,
        "looked": found if found and found.phase == entry.value else None,
    }
