"""What `/corte` shows: the phase, and the gates of the next step as `b3 cutover` last saw them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from b3_pipeline.api.page.panels import PHASES
from b3_pipeline.api.service import Service
from b3_pipeline.cutover import looked
from b3_pipeline.postgres.flags import MARKET, PHASE

#: The gates as the desk reads them.
GATES: Mapping[str, str] = {
    "schema": "Tabelas como no contrato",
    "parity": "Paridade do histórico",
    "last_session": "Paridade da última sessão",
    "freshness": "Tabelas em dia",
    "archive": "Arquivo bruto carregado",
    "mismatches": "Nenhuma diferença aberta",
    "comparisons": "Captura composta igual à do legado",
    "alerts": "Nenhum alerta aberto",
    "backup": "Backup verificado de menos de um dia",
    "legacy_files": "Arquivos do legado ainda escritos",
    "callers": "Ninguém consulta as rotas do legado",
}


async def of_service(service: Service) -> dict[str, Any]:
    """What the page is made of. Never fails."""
    entry = service.flags.entries[MARKET, PHASE.name]
    found = await asyncio.to_thread(looked.latest, service.settings.home, MARKET)
    return {
        "phase": PHASES[service.phase],
        "names": PHASES,
        "gates": GATES,
        "since": entry.since,
        "who": entry.who,
        "why": entry.why,
        "stale": service.flags.stale,
        "looked": found if found and found.phase == service.phase else None,
    }
