"""What the gates said when somebody last looked, kept in the home: for the page and the API, which do not look themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from b3_pipeline.credentials import write_private
from b3_pipeline.cutover.gates import Gate
from b3_pipeline.cutover.journal import FOLDER


@dataclass(frozen=True)
class Looked:
    """The gates of the step from a phase to another as they were at a moment (aware UTC)."""

    at: datetime
    phase: str
    to: str
    gates: Sequence[Gate]


def keep(home: Path, domain: str, looked: Looked) -> None:
    """Keeps it as the last look at a domain. Raises OSError."""
    (home / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    document = {
        "at": looked.at.isoformat(),
        "phase": looked.phase,
        "to": looked.to,
        "gates": [{"name": gate.name, "ok": gate.ok, "evidence": gate.evidence} for gate in looked.gates],
    }
    write_private(_file(home, domain), json.dumps(document, ensure_ascii=False, indent=1))


def latest(home: Path, domain: str) -> Looked | None:
    """The last look at a domain; None when there was none, or it cannot be read."""
    try:
        given = json.loads(_file(home, domain).read_text("utf-8"))
        gates = [Gate(**gate, domain=domain) for gate in given["gates"]]
        return Looked(datetime.fromisoformat(given["at"]), given["phase"], given["to"], gates)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(home: Path, domain: str) -> Path:
    return home / FOLDER / f"{domain}-gates.json"
