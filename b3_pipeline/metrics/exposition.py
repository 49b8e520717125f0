"""The server of `/metrics`: what processes counted, and what is asked for at scrape time, within a time limit.

A scrape never fails and takes at most `SCRAPE_S`: a probe that raises or takes longer leaves its metrics out and is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from b3_pipeline.metrics import files, instruments
from b3_pipeline.metrics.instruments import Instrument
from b3_pipeline.ports import HOST, require_free

SCRAPE_S, PROBES_S = 3.0, 2.5
#: An answer this young is given again: two that scrape at once ask once.
YOUNG_S = 1.0
CLIENTS = 16
_CLIENT_S = 5
_log = logging.getLogger(__name__)

Flags = Callable[[], Mapping[str, bool]]
Numbers = Callable[[], Mapping[str, float]]
Details = Callable[[], Mapping[str, Mapping[str, Any]]]


def nothing() -> Mapping[str, Any]:
    """A probe that has nothing to say."""
    return {}


@dataclass(frozen=True)
class Probes:
    """What is asked at scrape time, each in a thread of its own, at most once at a time; any may raise.

    `tables`: by table `age_s` and `fresh`, either None where it is not known (as in `b3 status --json`). `archive`: by
    source `behind` (entries) and `behind_bytes`. `wal_suspended`: by table. `services`: by name, whether up. `heartbeats`:
    by process, seconds since the last one. `disk`: `free` and `needed`, bytes. `alerts`: open ones by severity.
    `channels`: by channel `up` and `queued`.
    """

    tables: Details = nothing
    archive: Details = nothing
    wal_suspended: Flags = nothing
    services: Flags = nothing
    heartbeats: Numbers = nothing
    disk: Numbers = nothing
    alerts: Numbers = nothing
    channels: Details = nothing


#: By probe: each metric, and how its value is found in an item of the mapping (None: the item is the value).
_SHOWN: dict[str, tuple[tuple[Instrument, str | None], ...]] = {
    "tables": ((instruments.TABLE_AGE, "age_s"), (instruments.TABLE_FRESH, "fresh")),
    "archive": ((instruments.ARCHIVE_BEHIND, "behind"), (instruments.ARCHIVE_BEHIND_BYTES, "behind_bytes")),
    "wal_suspended": ((instruments.WAL_SUSPENDED, None),),
    "services": ((instruments.SERVICE_UP, None),),
    "heartbeats": ((instruments.HEARTBEAT_AGE, None),),
    "alerts": ((instruments.ALERTS_OPEN, None),),
    "channels": ((instruments.CHANNEL_UP, "up"), (instruments.CHANNEL_QUEUED, "queued")),
}
_DISK = {"free": instruments.DISK_FREE, "needed": instruments.DISK_NEEDED}


class _Asking:
    """One probe, asked again and again: while an answer is outstanding nobody asks once more."""

    def __init__(self, name: str, probe: Callable[[], Mapping[str, Any]]) -> None:
        self.name, self._probe = name, probe
        self._thread: threading.Thread | None = None
        self._answer: list[GaugeMetricFamily] | None = None
        self._late = False

    def begin(self) -> None:
        """Asks, unless the last call has not come back yet: what that one will say is of an earlier time."""
        self._late = self._thread is not None and self._thread.is_alive()
        if not self._late:
            self._answer = None
            self._thread = threading.Thread(target=self._ask, name=f"probe {self.name}", daemon=True)
            self._thread.start()

    def answer(self, deadline: float) -> list[GaugeMetricFamily] | None:
        """What it said by `deadline` (monotonic); None when it failed or has not said it."""
        if self._late or self._thread is None:
            return None
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._answer

    def _ask(self) -> None:
        try:
            self._answer = list(_families(self.name, self._probe()))
        except Exception as error:  # a probe looks at what may be broken: that is what it is for
            _log.debug("probe %s failed: %s", self.name, type(error).__name__)


def _families(name: str, said: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    """The metrics of a probe's mapping; values that are None are left out. Raises where it is not what it should be."""
    if name == "disk":
        for part, value in said.items():
            yield GaugeMetricFamily(_DISK[part].name, _DISK[part].help, value=float(value))
        return
    for instrument, part in _SHOWN[name]:
        family = GaugeMetricFamily(instrument.name, instrument.help, labels=instrument.labels)
        for label, item in said.items():
            value = item if part is None else item.get(part)
            if value is not None:
                family.add_metric([label], float(value))
        yield family


class Everything(Collector):
    """All metrics of the home: a collector for prometheus-client's exposition."""

    def __init__(self, folder: Path, probes: Probes) -> None:
        self._folder = folder
        self._asking = [_Asking(field.name, getattr(probes, field.name)) for field in fields(probes)]
        self._lock = threading.Lock()
        self._said: list[Metric] = []
        self._said_at = -YOUNG_S

    def collect(self) -> Iterable[Metric]:
        """The answers of the probes first: one that fails is in the counts of the same scrape."""
        answers = self._answers()
        try:
            counted = files.read(self._folder)
        except OSError as error:
            _log.warning("what processes counted cannot be read: %s", error)
            counted = []
        return [*counted, *answers]

    def _answers(self) -> list[Metric]:
        with self._lock:
            if time.monotonic() - self._said_at >= YOUNG_S:
                deadline = time.monotonic() + PROBES_S
                for one in self._asking:
                    one.begin()
                self._said = []
                for one in self._asking:
                    families = one.answer(deadline)
                    if families is None:
                        instruments.unanswered(one.name)
                    self._said.extend(families or [])
                self._said_at = time.monotonic()
            return self._said


class _Server(ThreadingWSGIServer):
    """A thread for each client, at most `CLIENTS` of them: the next ones wait."""

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(CLIENTS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's business."""


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""


def application(folder: Path, probes: Probes, healthy: Callable[[], bool]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application: GET /metrics, GET /health; anything else is 404, and says nothing."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Everything(folder, probes))
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        wanted = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if wanted == ("GET", "/metrics"):
            return metrics(environ, start_response)
        if wanted == ("GET", "/health"):
            status, said = ("200 OK", b"ok\n") if healthy() else ("503 Service Unavailable", b"not working\n")
        else:
            status, said = "404 Not Found", b""
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(said)))])
        return [said]

    return answer


@contextmanager
def served(port: int, folder: Path, probes: Probes, healthy: Callable[[], bool]) -> Iterator[None]:
    """Serves on 127.0.0.1:port while the block lasts. Raises PortBusy when somebody else listens there."""
    require_free({"metrics": port})
    app = application(folder, probes, healthy)
    with make_server(HOST, port, app, _Server, _Handler) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
