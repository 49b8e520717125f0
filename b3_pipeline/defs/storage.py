"""Dagster's storage in PostgreSQL, for ticks every few seconds: connections are kept where that is safe, facts asked once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage, PostgresScheduleStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config
from sqlalchemy import Connection, Engine

from b3_pipeline.dagster_server import KEEPS_CONNECTIONS

#: At most so many connections of a process: those that are kept, and further ones for a moment.
_KEPT, _MORE = 8, 40
_RECYCLED_S = 3_600
_kept: dict[str, Engine] = {}
_making = threading.Lock()


class _Sure:
    """What was once found to be there: it is not asked for again, for nothing takes a table of Dagster's away."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self._sure: set[str] = set()
        super().__init__(*given, **more)

    def _is_sure(self, what: str, found: Callable[[], bool]) -> bool:
        if what not in self._sure and found():
            self._sure.add(what)
        return what in self._sure


class EventLog(_Sure, PostgresEventLogStorage):
    """The event log, which Dagster's own asks for a table before each result of a check is stored."""

    def has_table(self, table_name: str) -> bool:
        return self._is_sure(table_name, lambda: super(EventLog, self).has_table(table_name))


class Schedules(_Sure, PostgresScheduleStorage):
    """The states and turns of sensors and schedules, for which Dagster's own lists all tables several times a turn."""

    def has_instigators_table(self) -> bool:
        return self._is_sure("instigators", super().has_instigators_table)

    def _has_instigators_table(self, conn: Connection) -> bool:
        return self._is_sure("instigators", lambda: super(Schedules, self)._has_instigators_table(conn))

    def has_built_index(self, migration_name: str) -> bool:
        return self._is_sure(f"index {migration_name}", lambda: super(Schedules, self).has_built_index(migration_name))


class Storage(DagsterPostgresStorage):
    """The storage of an instance. Dagster's own opens a connection for every question, three for an event of a tick.

    That is right where processes come and go (runs, steps, commands). The daemon and the code server live long, and in
    the code server every tick has an instance of its own: there all instances share connections, which are tried
    before they are used, for PostgreSQL may have been started again meanwhile, and find the tables made by the first.
    """

    def __init__(self, postgres_url: str, should_autocreate_tables: bool = True, **more: Any) -> None:
        super().__init__(postgres_url, should_autocreate_tables, **more)
        self._event_log_storage = EventLog(postgres_url, should_autocreate_tables=False)
        self._schedule_storage = Schedules(postgres_url, should_autocreate_tables=False)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Storage:
        url = pg_url_from_config(dict(config_value))
        # a run has its environment of the code server, which spawns it
        if not os.environ.get(KEEPS_CONNECTIONS) or multiprocessing.parent_process():
            return cls(url, inst_data=inst_data)  # pyright: ignore[reportArgumentType]
        made = cls(url, should_autocreate_tables=url not in _kept, inst_data=inst_data)  # pyright: ignore[reportArgumentType]
        for part in (made._run_storage, made._event_log_storage, made._schedule_storage):
            part._engine = _engine(url)
        return made


def _engine(url: str) -> Engine:
    """The connections of this process, which all its instances share."""
    with _making:
        if url not in _kept:
            _kept[url] = create_pg_engine(
                url,
                isolation_level="AUTOCOMMIT",
                pool_size=_KEPT,
                max_overflow=_MORE,
                pool_recycle=_RECYCLED_S,
                pool_pre_ping=True,
            )
        return _kept[url]
