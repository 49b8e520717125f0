"""What of the old stack may be switched off: each of its parts with what is known of it, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx2

from b3_pipeline.cutover import phases
from b3_pipeline.cutover.evidence import Desk, readers_since
from b3_pipeline.cutover.folder_backup import legacy_files
from b3_pipeline.cutover.link import OURS
from b3_pipeline.lowdb.model import FILE_NAMES
from b3_pipeline.postgres.callers import Caller
from b3_pipeline.postgres.flags import IDEAS, MARKET
from b3_pipeline.residents import HEALTH_AGENT
from b3_pipeline.settings import Settings

#: A folder in which nothing was written for so long has no collector.
_STILL = timedelta(days=3)
_ASKED_S = 3.0
State = Literal["off", "running", "in use", "not used", "unknown"]


@dataclass(frozen=True)
class Part:
    """A part of the old stack: what is known of it by looking, and what may be done now."""

    name: str
    state: State
    evidence: str
    what_to_do: str


def checklist(desk: Desk) -> list[Part]:
    """The parts of a domain's old stack in the order in which they are switched off. Raises CallersError."""
    return _PARTS[desk.domain](desk)


def _of_market(desk: Desk) -> list[Part]:
    since = phases.quiet_since(desk.now)
    found = readers_since(desk.dsn, since)
    active = desk.entry().value in OURS
    return [
        _collectors(desk.settings, datetime.now(UTC)),
        _server(desk.settings),
        *(_reader(name, what, found, active=active) for name, what in _READERS.items()),
    ]


def _of_ideas(desk: Desk) -> list[Part]:
    """Whoever writes the LowDB files past this service: known by their last change, on the disk's clock."""
    name, advice = "lowdb", "Lead its clients to /api/v1/ideas, and stop the old server once the phase is frozen."
    folder = desk.settings.lowdb_dir
    if folder is None:
        return [Part(name, "unknown", "B3_LOWDB_DIR is not set: the tables are all there is.", "")]
    changed = max((path.stat().st_mtime for path in map(folder.joinpath, FILE_NAMES) if path.exists()), default=None)
    if changed is None:
        return [Part(name, "off", "There is no LowDB file.", "")]
    said = f"A LowDB file changed last at {datetime.fromtimestamp(changed, UTC):%Y-%m-%d %H:%M} UTC."
    return [Part(name, "in use" if desk.entry().value not in OURS else "unknown", said, advice)]


_READERS = {
    "dashboard": "The old page: it asks the legacy routes, or reads the files.",
    "proxies": "Proxies that lead to the old server.",
}


def _collectors(settings: Settings, now: datetime) -> Part:
    """By the disk's clock, for files have no other."""
    name, advice = "collectors", "Stop them once the phase is frozen; their folder stays as it is."
    if settings.legacy_dir is None:
        return Part(name, "unknown", "B3_LEGACY_DIR is not set.", advice)
    changed = max((path.stat().st_mtime for path in legacy_files(settings.legacy_dir)), default=None)
    if changed is None:
        return Part(name, "off", "There is no legacy file.", "")
    at = datetime.fromtimestamp(changed, UTC)
    off = now - at > _STILL
    return Part(
        name,
        "off" if off else "running",
        f"A legacy file changed last at {at:%Y-%m-%d %H:%M} UTC.",
        "" if off else advice,
    )


def _server(settings: Settings) -> Part:
    name, advice = "json_server", "Stop it once nobody calls it, and lead its address to ours (B3_LEGACY_PORT)."
    if settings.legacy_url is None:
        return Part(name, "unknown", "B3_LEGACY_URL is not set, so nobody asked it.", advice)
    try:
        with httpx2.Client(trust_env=False, timeout=_ASKED_S, headers={"User-Agent": HEALTH_AGENT}) as client:
            status = client.get(f"{settings.legacy_url.rstrip('/')}/status").status_code
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
        return Part(name, "off", "B3_LEGACY_URL does not answer.", "")
    return Part(name, "running", f"B3_LEGACY_URL answers ({status}).", advice)


def _reader(name: str, what: str, found: Sequence[Caller], *, active: bool) -> Part:
    if found:
        who = sorted({f"{one.address} ({one.agent or 'no agent'})" for one in found})
        more = f" and {len(who) - 3} more" if len(who) > 3 else ""
        return Part(
            name, "in use", f"Legacy routes were called by {', '.join(who[:3])}{more}.", f"{what} Move it to ours."
        )
    state: State = "not used" if active else "unknown"
    said = f"Nobody called a legacy route of ours for {phases.QUIET_SESSIONS} sessions."
    return Part(name, state, said, f"{what} Switch it off." if active else f"{what} It may ask the old server itself.")


_PARTS: Mapping[str, Callable[[Desk], list[Part]]] = {MARKET: _of_market, IDEAS: _of_ideas}


def document(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Its part of the JSON of `b3 cutover status`."""
    return [asdict(part) for part in parts]
