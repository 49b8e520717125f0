"""The last signals with what was known at their moment, out of the warehouse: what the page shows of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected

#: Who shows them waits no longer: they are beside what matters most.
_TIMEOUT_S = 2


class NotKnown(B3Error):
    """PostgreSQL does not say what was known."""


def last_signals(dsn: str, until: datetime, limit: int) -> list[dict[str, Any]] | None:
    """The newest signals up to a moment (aware), newest first, as rows of `warehouse.signals_known`.

    None where there is no warehouse yet. Raises NotKnown when PostgreSQL does not answer within two seconds.
    """
    query = (
        "select * from warehouse.signals_known where ts <= %s order by ts desc, channel, signal_type, asset limit %s"
    )
    what, timeout_ms = "the last signals", _TIMEOUT_S * 1_000
    with connected(dsn, error=NotKnown, what=what, connect_timeout_s=_TIMEOUT_S, statement_timeout_ms=timeout_ms) as db:
        if db.execute("select to_regclass('warehouse.signals_known')").fetchall() == [(None,)]:
            return None
        with db.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, (until, limit)).fetchall()
