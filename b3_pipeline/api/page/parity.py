"""What `/paridade` shows of the legacy contract: where both sides differed, what was compared, and who still asks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from b3_pipeline.api.page.panels import PHASES, Mismatch, mismatches
from b3_pipeline.api.page.proof import Proof, proof_of
from b3_pipeline.api.service import Service
from b3_pipeline.api.switch import SHADOW
from b3_pipeline.errors import B3Error
from b3_pipeline.metrics import files, instruments
from b3_pipeline.postgres import callers
from b3_pipeline.postgres import mismatches as kept
from b3_pipeline.postgres.callers import Caller
from b3_pipeline.postgres.mismatches import MismatchesError
from b3_pipeline.sessions import session_before, session_of, to_local

#: Mismatches and callers that are shown, and of how many sessions the callers are.
SHOWN, CALLERS, SESSIONS = 50, 100, 5
#: The outcomes of a comparison (`api.switch.Counts`), as the desk reads them.
OUTCOMES: Mapping[str, str] = {
    "equal": "iguais",
    "different": "diferentes",
    "missing": "sem documento nosso",
    "ignored": "explicadas por uma regra",
    "superseded": "superadas: o legado já dizia outra coisa",
    "dropped": "não comparadas, por excesso",
    "failed": "não comparadas, por falha",
}
#: Those of an answer that was judged.
_JUDGED = ("equal", "different", "missing", "ignored")


@dataclass(frozen=True)
class Differed:
    """What PostgreSQL has: how many mismatches are open and how many there are, the foremost, and the last callers."""

    open: int
    total: int
    shown: Sequence[Mismatch]
    callers: Sequence[Caller]


@dataclass(frozen=True)
class Parity:
    """How both sides stand. `counts`: comparisons by outcome, of all processes of this home; `quiet`: why none is made now.

    `differed` is None where nobody can tell, `proof` (of the tables) where none was kept.
    """

    counts: Mapping[str, int]
    quiet: str | None
    differed: Differed | None
    proof: Proof | None = None

    @property
    def outcomes(self) -> list[tuple[str, int]]:
        """How many comparisons ended how, in words; those that none did are left out."""
        return [(word, self.counts[name]) for name, word in OUTCOMES.items() if self.counts.get(name)]

    @property
    def judged(self) -> int:
        """How many answers were compared to an end."""
        return sum(self.counts.get(name, 0) for name in _JUDGED)

    @property
    def all_equal(self) -> bool:
        """Whether something was compared, and everything was equal."""
        return self.judged > 0 and self.counts.get("equal", 0) == self.judged


async def of_service(service: Service) -> Parity:
    """How parity stands now. Never fails: what cannot be told is left out."""
    return await asyncio.to_thread(_parity, service)


def _parity(service: Service) -> Parity:
    settings = service.settings
    has_legacy = settings.legacy_dir is not None or settings.legacy_url is not None
    counts = compared(settings.home / files.FOLDER)
    try:
        found = differed(service.postgres_dsn, to_local(service.now()).date())
    except B3Error:
        found = None
    return Parity(counts, quiet(service.phase, has_legacy), found, proof_of(settings.home))


def quiet(phase: str, has_legacy: bool) -> str | None:
    """Why nothing is compared now; None where every answer of the legacy side is."""
    if not has_legacy:
        return "este sistema não conhece um lado legado (B3_LEGACY_DIR ou B3_LEGACY_URL)"
    if phase != SHADOW:
        return f"a fase é {PHASES[phase][0]}, e só em {PHASES[SHADOW][0]} os dois lados são comparados"
    return None


def compared(folder: Path) -> dict[str, int]:
    """Comparisons by outcome, as the processes of a home have counted them in this folder. Reads files."""
    found: Counter[str] = Counter()
    try:
        metrics = list(files.read(folder)) if folder.is_dir() else []
    except OSError:
        return found
    for metric in metrics:
        for sample in metric.samples:
            if sample.name == instruments.PAYLOADS.name:
                found[sample.labels["outcome"]] += int(sample.value)
    return found


def differed(dsn: str | None, today: date) -> Differed:
    """What PostgreSQL has of it, callers as of the last sessions up to a local day. Raises B3Error."""
    if dsn is None:
        raise MismatchesError("There is no PostgreSQL that could tell.")
    open_, total = kept.counted(dsn)
    since = session_of(today)
    for _session in range(SESSIONS - 1):
        since = session_before(since)
    shown = mismatches(vars(found) for found in kept.foremost(dsn, SHOWN))
    return Differed(open_, total, shown, callers.recent(dsn, since, CALLERS))
