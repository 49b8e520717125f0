"""The phases in their order, what each step must show first, and when a session was a full one (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from b3_pipeline.errors import UsageError
from b3_pipeline.postgres.flags import IDEAS, MARKET, PHASE
from b3_pipeline.sessions import session_before, session_of, to_local, to_utc

LEGACY, SHADOW, ACTIVE, FROZEN = PHASE.values
#: A session is a full one in a phase that began before it opened and lasted until all of it was due (local times).
OPENS, DUE = time(9), time(21)
#: Sessions without a call after which nobody is a reader of a legacy route any more.
QUIET_SESSIONS = 3
#: How many sessions are looked through for a full one.
_LOOKED_AT = 400

_STORED = ("schema", "parity", "last_session", "freshness", "archive")
_EQUAL = ("mismatches", "comparisons")
_SAFE = ("alerts", "backup")


@dataclass(frozen=True)
class Step:
    """From a phase to the next: the gates, by name, in the order in which they are looked at."""

    phase: str
    to: str
    gates: tuple[str, ...]


#: By domain its steps, by the phase that each leaves: the one table of which gate is asked when (docs/cutover.md).
STEPS: Mapping[str, Mapping[str, Step]] = {
    MARKET: {
        LEGACY: Step(LEGACY, SHADOW, _STORED),
        SHADOW: Step(SHADOW, ACTIVE, (*_STORED, *_EQUAL, *_SAFE)),
        ACTIVE: Step(ACTIVE, FROZEN, (*_STORED, *_EQUAL, *_SAFE, "legacy_files", "callers")),
    },
    IDEAS: {
        LEGACY: Step(LEGACY, SHADOW, ("schema", "parity")),
        SHADOW: Step(SHADOW, ACTIVE, ("schema", "parity", *_EQUAL, *_SAFE)),
        ACTIVE: Step(ACTIVE, FROZEN, ("schema", "mismatches", *_SAFE, "files")),
    },
}


def steps_of(domain: str) -> Mapping[str, Step]:
    """The steps of a domain. Raises UsageError for one that has none."""
    if domain not in STEPS:
        known = " or ".join(STEPS)
        raise UsageError(f"The domain {domain!r} is none: the cutover is there for {known}.")
    return STEPS[domain]


def finished_sessions(now: datetime) -> Iterator[date]:
    """The sessions of which everything was due by now (aware UTC), the newest first."""
    local = to_local(now)
    session = session_of(local.date())
    if local < datetime.combine(session, DUE):
        session = session_before(session)
    for _ in range(_LOOKED_AT):
        yield session
        session = session_before(session)


def full_session(since: datetime | None, now: datetime) -> date | None:
    """The newest session that was over by now and began after `since` (aware UTC); None: there was none yet."""
    if since is None:
        return None
    newest = next(finished_sessions(now))
    return newest if _opening(newest) >= since else None


def quiet_since(now: datetime) -> date:
    """The first of the sessions in which nobody may have called."""
    return [session for session, _ in zip(finished_sessions(now), range(QUIET_SESSIONS), strict=False)][-1]


def _opening(session: date) -> datetime:
    return to_utc(datetime.combine(session, OPENS)).replace(tzinfo=UTC)
