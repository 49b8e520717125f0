"""What runs in a home: the two databases for as long as somebody needs them, and all services for `b3 up`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Never

import httpx2
import psycopg

from b3_pipeline import dagster_server, processes, residents, supervision
from b3_pipeline.backup.journal import require_restored
from b3_pipeline.errors import B3Error
from b3_pipeline.home import Hold, Holder, HomeBusy, State, hold, require_disk
from b3_pipeline.ports import require_free
from b3_pipeline.postgres import server as postgres
from b3_pipeline.postgres.dsn import BadDsn, checked
from b3_pipeline.postgres.roles import ROLES
from b3_pipeline.postgres.server import PostgresServer
from b3_pipeline.processes import Child, Record, find_process
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.questdb import server as questdb
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline.questdb.jar import questdb_jar
from b3_pipeline.questdb.server import QuestDBServer
from b3_pipeline.settings import Ports, Settings
from b3_pipeline.supervision import BackOff, Server, Supervisor

NAMES = (
    questdb.NAME,
    postgres.NAME,
    dagster_server.CODE_SERVER,
    dagster_server.WEBSERVER,
    dagster_server.DAEMON,
    residents.COLLECTOR,
    residents.MONITOR,
    residents.API,
    residents.LEGACY,
)
_SERVING = (residents.API, residents.LEGACY)
DAGSTER_START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


@dataclass(frozen=True)
class Engines:
    """The two databases, healthy: where QuestDB is, and PostgreSQL's DSN (`postgresql://…`, with its password).

    `app_dsn` is for what reads and writes rows and makes no tables, `reader_dsn` for what only reads ideas and warehouse.
    """

    questdb: Address
    postgres_dsn: str = field(repr=False)
    app_dsn: str = field(default="", repr=False)
    reader_dsn: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """A DSN that is not given is that of the one who may do more."""
        object.__setattr__(self, "app_dsn", self.app_dsn or self.postgres_dsn)
        object.__setattr__(self, "reader_dsn", self.reader_dsn or self.app_dsn)


@contextmanager
def engines(settings: Settings, report: Report = SILENT) -> Iterator[Engines]:
    """The home's databases for the length of the block: those that are up, one's own by URL, or embedded ones.

    Embedded ones that nobody has started are started here and stopped again at the end. Raises HomeBusy when another
    process has them for itself, and B3Error for all that can go wrong with a start.
    """
    _require_sound(settings)
    if settings.questdb_url and settings.postgres_dsn:
        yield known_engines(settings)
        return
    with ExitStack() as stack:
        held, holder = None, None
        try:
            held = stack.enter_context(hold(settings, shared=False))
        except HomeBusy:
            holder = Holder.of(settings.home)
            if holder is None or not holder.open_to_us:
                raise
        if held:
            _make_ready(settings, report)
            yield stack.enter_context(_embedded(settings, report, held))[0]
        else:
            yield known_engines(settings, holder)


def known_engines(settings: Settings, holder: Holder | None = None) -> Engines:
    """Where the databases are: by URL, or embedded in this home (by its holder, whose ports may be others than ours)."""
    url, dsn, *others = (
        settings.questdb_url,
        settings.postgres_dsn,
        settings.postgres_app_dsn,
        settings.postgres_reader_dsn,
    )
    return Engines(
        Address.from_url(url.get_secret_value()) if url else _embedded_address(settings, holder),
        dsn.get_secret_value() if dsn else PostgresServer(settings.home).dsn,
        *(other.get_secret_value() if other else "" for other in others),
    )


def _embedded_address(settings: Settings, holder: Holder | None) -> Address:
    ports = Ports(holder.port_base if holder else settings.port_base)
    return QuestDBServer(settings.home, ports, settings.questdb_memory).address


def _require_sound(settings: Settings) -> None:
    """Before anything starts, or anybody else reads a DSN, who might quote it. Raises HalfRestored, BadDsn."""
    require_restored(settings.home)
    for role in ROLES:
        if (dsn := getattr(settings, role.setting)) is not None:
            checked(dsn.get_secret_value(), role.variable)


def _make_ready(settings: Settings, report: Report) -> None:
    """Before anything starts in a home that we hold: enough disk, and nothing left of an interrupted run."""
    require_disk(settings)
    if left := processes.end_leftovers(settings.home):
        report(f"Ended what an interrupted run had left behind: {', '.join(left)}.")


@contextmanager
def _embedded(settings: Settings, report: Report, held: Hold) -> Iterator[tuple[Engines, list[Server]]]:
    """Starts what is not given by URL, both together, and stops it at the end of the block."""
    with httpx2.Client(trust_env=False, timeout=2) as client:
        servers = _databases(settings, report, client)
        try:
            for server in servers:
                server.start()
            for server in servers:
                server.wait()
            held.reached(State.ENGINES)
            yield known_engines(settings), servers
        finally:
            held.reached(State.STOPPING)
            supervision.stop(servers)


def _databases(settings: Settings, report: Report, client: httpx2.Client) -> list[Server]:
    """The embedded databases of the home, not started yet."""
    servers = []
    if not settings.questdb_url:
        quest, jar = QuestDBServer(settings.home, settings.ports, settings.questdb_memory), questdb_jar(report)
        answers = partial(questdb.healthy, client, settings.ports)
        servers.append(
            Server(questdb.NAME, partial(quest.start, jar), lambda _child: answers(), questdb.START_TIMEOUT_S)
        )
    if not settings.postgres_dsn:
        relational = PostgresServer(settings.home)
        if not relational.data.exists():
            report("First start in this home: making the PostgreSQL cluster.")
        start = partial(relational.start, report)
        servers.append(Server(postgres.NAME, start, lambda _child: relational.ready(), postgres.START_TIMEOUT_S))
    return servers


def _dagster(settings: Settings, definitions: Path | None, client: httpx2.Client) -> list[Server]:
    """Dagster's code server, web server and daemon, not started yet."""
    env = dagster_server.environment(settings, known_engines(settings).postgres_dsn)
    dagster_server.drop_old_compute_logs(settings.folder("dagster"), settings.clock())
    port = settings.ports.dagster

    def beats(daemon: Child) -> bool:
        return dagster_server.daemon_healthy(client, port, since=daemon.record.create_time)

    healthy = {
        dagster_server.CODE_SERVER: lambda _child: dagster_server.code_server_healthy(settings.home),
        dagster_server.WEBSERVER: lambda _child: dagster_server.webserver_healthy(client, port),
        dagster_server.DAEMON: beats,
    }
    return [
        Server(
            program.name, partial(Child, program, settings.home), healthy[program.name], DAGSTER_START_TIMEOUT_S, 0.2
        )
        for program in dagster_server.programs(settings, env, definitions)
    ]


def _residents(settings: Settings, client: httpx2.Client) -> list[Server]:
    """The collector, the monitor and the API, not started yet."""

    def gives_signs(child: Child) -> bool:
        name = child.program.name
        if name in _SERVING:
            return residents.answers(client, settings, settings.ports, name)
        return residents.alive(settings.home, name, since=child.record.create_time)

    return [
        Server(program.name, partial(Child, program, settings.home), gives_signs, residents.START_TIMEOUT_S, 0.2)
        for program in residents.programs(settings)
    ]


class Services:
    """The databases, healthy; Dagster's processes, started; and our own, which `collect` starts."""

    def __init__(
        self,
        engines: Engines,
        databases: list[Server],
        dagster: list[Server],
        ours: list[Server],
        held: Hold,
        logs: Path,
    ) -> None:
        self.engines = engines
        self._databases, self._dagster, self._ours = databases, dagster, ours
        self._held, self._logs = held, logs

    def wait_healthy(self) -> None:
        """Returns when Dagster has loaded the definitions and its daemons give heartbeats.

        Raises ServerDied when a process ends or takes too long, DefinitionsBroken when the definitions do not load.
        """
        for server in self._dagster:
            server.wait()

    def collect(self) -> None:
        """Starts the collector and the monitor; returns when both give signs of life. Raises ServerDied."""
        for server in self._ours:
            server.start()
        for server in self._ours:
            server.wait()

    def watch(self, tell: Callable[[str], None], back_off: BackOff | None = None) -> Never:
        """Never returns: starts servers again that crash, and tells people so; see `supervision`."""
        servers = [*self._databases, *self._dagster, *self._ours]
        Supervisor(servers, self._logs, tell, self._held.restarted, back_off).watch()


@contextmanager
def all_services(settings: Settings, report: Report, held: Hold, definitions: Path | None = None) -> Iterator[Services]:
    """Databases, Dagster, collector, monitor and API for the length of the block; then all are stopped.

    The databases are healthy at once; Dagster is after `wait_healthy`; ours run from `collect` on. `definitions` is a
    Python file with others than the project's.
    """
    _require_sound(settings)
    _make_ready(settings, report)
    legacy = {"legacy routes": settings.legacy_port} if settings.legacy_port else {}
    ports = settings.ports
    require_free({"page and API": ports.page, "Dagster": ports.dagster, "Metrics": ports.metrics, **legacy})
    with httpx2.Client(trust_env=False, timeout=15) as client, ExitStack() as stack:
        code, *askers = dagster = _dagster(settings, definitions, client)
        stack.callback(supervision.stop, [code])
        code.start()  # beside the databases, for it takes as long as they do
        engines, databases = stack.enter_context(_embedded(settings, report, held))
        report("QuestDB and PostgreSQL are up.")
        ours = _residents(settings, client)
        try:
            code.wait()
            for server in askers:
                server.start()
            yield Services(engines, databases, dagster, ours, held, settings.folder("logs"))
        finally:
            held.reached(State.STOPPING)
            supervision.stop([*ours, *dagster])


def restarts(settings: Settings) -> dict[str, int]:
    """How often each service of the running `b3 up` was started again after a crash."""
    holder = Holder.of(settings.home)
    if holder is None:
        return {}
    absent = set(_SERVING) - set(residents.names(settings))
    return {name: holder.restarts.get(name, 0) for name in NAMES if name not in absent}


def states(settings: Settings) -> dict[str, bool]:
    """Which services are up: their process lives and answers, or one's own server does."""
    holder = Holder.of(settings.home)
    ports = Ports(holder.port_base if holder else settings.port_base)
    with httpx2.Client(trust_env=False, timeout=10) as client:
        return {
            questdb.NAME: _own_questdb(settings)
            if settings.questdb_url
            else _runs(settings, questdb.NAME) and questdb.healthy(client, ports),
            postgres.NAME: (bool(settings.postgres_dsn) or _runs(settings, postgres.NAME)) and _connects(settings),
            dagster_server.CODE_SERVER: _runs(settings, dagster_server.CODE_SERVER)
            and dagster_server.code_server_healthy(settings.home),
            dagster_server.WEBSERVER: _runs(settings, dagster_server.WEBSERVER)
            and dagster_server.webserver_healthy(client, ports.dagster),
            dagster_server.DAEMON: _runs(settings, dagster_server.DAEMON) and _heartbeats(client, ports),
            **{
                name: _runs(settings, name) and residents.alive(settings.home, name)
                for name in (residents.COLLECTOR, residents.MONITOR)
            },
            **{
                name: _runs(settings, name) and residents.answers(client, settings, ports, name)
                for name in residents.names(settings)
                if name in _SERVING
            },
        }


def running(settings: Settings) -> Engines | None:
    """The databases that this process may use without starting any; None when there are none."""
    holder = Holder.of(settings.home)
    if settings.questdb_url and settings.postgres_dsn:
        return known_engines(settings)
    return known_engines(settings, holder) if holder and holder.open_to_us else None


def stop_holder(settings: Settings) -> list[str]:
    """Stops what `b3 up` runs in this home, and what a crashed one left; returns the names of what was stopped.

    Raises HomeBusy when another command has servers for itself: it stops them at its end.
    """
    stopped: list[str] = []
    holder = Holder.of(settings.home)
    if holder and not holder.shared:
        raise holder.busy()
    if holder and (process := find_process(holder.pid, holder.create_time)):
        stopped = [name for name in NAMES if _runs(settings, name)]
        process.terminate()
        if not processes.wait_ended([process], STOP_TIMEOUT_S):
            process.kill()
            processes.wait_ended([process], 5)
    with hold(settings, shared=False):
        return stopped + [name for name in processes.end_leftovers(settings.home) if name not in stopped]


def _runs(settings: Settings, name: str) -> bool:
    record = Record.of(settings.home, name)
    return record is not None and record.process() is not None


def _own_questdb(settings: Settings) -> bool:
    try:
        with QuestDB(known_engines(settings).questdb) as db:
            return bool(db.query("select 1"))
    except B3Error:
        return False


def _connects(settings: Settings) -> bool:
    try:
        with psycopg.connect(checked(known_engines(settings).postgres_dsn), connect_timeout=3):
            return True
    except (BadDsn, psycopg.Error):
        return False


def _heartbeats(client: httpx2.Client, ports: Ports) -> bool:
    try:
        return dagster_server.daemon_healthy(client, ports.dagster)
    except dagster_server.DefinitionsBroken:
        return False
