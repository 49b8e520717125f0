"""How many answers of both stores of a domain were compared while a phase stood, kept in PostgreSQL for the cutover's gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import LiteralString

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected

_DDL: tuple[LiteralString, ...] = (
    "create table if not exists b3.compared (domain text not null, since timestamptz not null, equal bigint not null, "
    "different bigint not null, superseded bigint not null, dropped bigint not null, failed bigint not null, "
    "unmirrored bigint not null, primary key (domain, since))",
)


class ComparedError(B3Error):
    """PostgreSQL cannot keep or give the numbers."""


_connected = partial(
    connected, error=ComparedError, what="numbers", ddl=_DDL, connect_timeout_s=3, statement_timeout_ms=5_000
)


@dataclass
class Counts:
    """What came of comparisons. `superseded`: a write was under way, and a moment later both said the same.

    `unmirrored` are writes that the store beside did not get at once.
    """

    equal: int = 0
    different: int = 0
    superseded: int = 0
    dropped: int = 0
    failed: int = 0
    unmirrored: int = 0

    def less(self, before: Mapping[str, int]) -> Counts:
        """What has come since."""
        return Counts(**{name: count - before.get(name, 0) for name, count in asdict(self).items()})


def add(dsn: str, domain: str, since: datetime, counts: Counts) -> None:
    """Adds to the numbers of the phase that began at a moment (aware UTC). Raises ComparedError."""
    insert: LiteralString = (
        "insert into b3.compared as kept (domain, since, equal, different, superseded, dropped, failed, unmirrored) "
        "values (%(domain)s, %(since)s, %(equal)s, %(different)s, %(superseded)s, %(dropped)s, %(failed)s, "
        "%(unmirrored)s) on conflict (domain, since) do update set equal = kept.equal + excluded.equal, "
        "different = kept.different + excluded.different, superseded = kept.superseded + excluded.superseded, "
        "dropped = kept.dropped + excluded.dropped, failed = kept.failed + excluded.failed, "
        "unmirrored = kept.unmirrored + excluded.unmirrored"
    )
    with _connected(dsn) as db:
        db.execute(insert, {"domain": domain, "since": since, **asdict(counts)})


def of_phase(dsn: str, domain: str, since: datetime) -> Counts:
    """The numbers of the phase that began at a moment (aware UTC). Raises ComparedError."""
    query: LiteralString = (
        "select equal, different, superseded, dropped, failed, unmirrored from b3.compared "
        "where domain = %s and since = %s"
    )
    with _connected(dsn) as db:
        row = db.execute(query, (domain, since)).fetchone()
    return Counts(*row) if row else Counts()
