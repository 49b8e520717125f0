"""Dagster's storage in PostgreSQL, for ticks every few seconds: connections are kept where that is safe, facts asked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config

from b3_pipeline.dagster_server import KEEPS_CONNECTIONS

#: At most so many connections of each of the three storages: those that are kept, and further ones for a moment.
_KEPT, _MORE = 8, 16
_RECYCLED_S = 3_600


class EventLog(PostgresEventLogStorage):
    """The event log; a table that is there once is not asked for again before each result of a check is stored."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self._there: set[str] = set()
        super().__init__(*given, **more)

    def has_table(self, table_name: str) -> bool:
        if table_name not in self._there and super().has_table(table_name):
            self._there.add(table_name)
        return table_name in self._there


class Storage(DagsterPostgresStorage):
    """The storage of an instance. Dagster's own opens a connection for every question, three for an event of a tick.

    That is right where instances come and go (ticks, steps). The daemon has one for its whole life: there connections
    are kept, and tried before they are used, for PostgreSQL may have been started again meanwhile.
    """

    def __init__(self, postgres_url: str, should_autocreate_tables: bool = True, **more: Any) -> None:
        super().__init__(postgres_url, should_autocreate_tables, **more)
        self._event_log_storage = EventLog(postgres_url, should_autocreate_tables=False)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Storage:
        made = cls(pg_url_from_config(dict(config_value)), inst_data=inst_data)  # pyright: ignore[reportArgumentType]
        if os.environ.get(KEEPS_CONNECTIONS):
            for part in (made._run_storage, made._event_log_storage, made._schedule_storage):
                part._engine = create_pg_engine(
                    made.postgres_url,
                    isolation_level="AUTOCOMMIT",
                    pool_size=_KEPT,
                    max_overflow=_MORE,
                    pool_recycle=_RECYCLED_S,
                    pool_pre_ping=True,
                )
        return made
