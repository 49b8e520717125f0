"""The name of every metric, and the small functions with which processes count.

A process counts once it has called `ready`; before, and where `B3_HOME/metrics` cannot be written, nothing is counted and
nothing fails. The functions never raise and may be called from any thread. Labels take few values: sources, tables,
feeds, checks, channels, never a file, a key or a message.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec

from b3_pipeline.metrics import files
from b3_pipeline.settings import Settings

P = ParamSpec("P")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instrument:
    """A metric. Those `asked` have their values from a probe of the server, at scrape time; all others are counted."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["counter", "gauge", "histogram"] = "counter"
    asked: bool = False

    @property
    def series(self) -> set[str]:
        """The names under which Prometheus has it."""
        parts = ("_bucket", "_count", "_sum") if self.kind == "histogram" else ("",)
        return {self.name + part for part in parts}


def _asked(name: str, text: str, *labels: str) -> Instrument:
    return Instrument(name, text, labels, "gauge", asked=True)


# Collection
FETCHES = Instrument("b3_fetches_total", "Attempts to fetch a source", ("source", "outcome"))
FETCH_RETRIES = Instrument("b3_fetch_retries_total", "Further tries within an attempt", ("source",))
FETCH_SECONDS = Instrument("b3_fetch_seconds", "Time of an attempt with its retries", ("source",), "histogram")
ARCHIVE_ENTRIES = Instrument("b3_archive_entries_total", "Payloads appended to the raw archive", ("source",))
ARCHIVE_BYTES = Instrument("b3_archive_bytes_total", "Their bytes as received", ("source",))
ARCHIVE_BEHIND = _asked("b3_archive_behind_entries", "Payloads in the archive that no sensor has loaded", "source")
ARCHIVE_BEHIND_BYTES = _asked("b3_archive_behind_bytes", "Their bytes", "source")

# Loading
RECORDS = Instrument("b3_records_total", "Records by what became of them", ("table", "feed", "outcome"))
LOAD_SECONDS = Instrument("b3_load_seconds", "Time of a load until its rows show", ("table",), "histogram")
TICKS = Instrument("b3_ticks_total", "Turns of a sensor", ("sensor", "outcome"))
TICK_SECONDS = Instrument("b3_tick_seconds", "Time of a turn", ("sensor",), "histogram")
SHADOW_WRITES = Instrument("b3_shadow_writes_total", "Writes of shadow files", ("file", "outcome"))
TABLE_AGE = _asked("b3_table_age_seconds", "Age of a table's newest row", "table")
TABLE_FRESH = _asked("b3_table_fresh", "1 when a table has what was due by now", "table")
WAL_SUSPENDED = _asked("b3_wal_suspended", "1 when QuestDB accepts rows of a table and hides them", "table")

# The API
REQUESTS = Instrument("b3_api_requests_total", "Requests answered", ("route", "method", "status"))
REQUEST_SECONDS = Instrument("b3_api_request_seconds_total", "Time of answering them", ("route", "method"))
PAYLOADS = Instrument("b3_payload_comparisons_total", "Comparisons of legacy answers with ours", ("outcome",))
IDEAS = Instrument("b3_ideas_comparisons_total", "Comparisons of LowDB's answers with the tables'", ("outcome",))

# Checks
CHECK_RESULTS = Instrument("b3_check_results_total", "Evaluations", ("table", "check", "severity", "passed"))
CHECK_PASSED = Instrument("b3_check_passed", "1 when the last evaluation passed", ("table", "check"), "gauge")

# Alerts
DELIVERIES = Instrument("b3_alert_deliveries_total", "Messages to a channel", ("channel", "outcome"))
ALERTS_OPEN = _asked("b3_alerts_open", "Alerts that are open", "severity")
CHANNEL_UP = _asked("b3_alert_channel_up", "0 when messages do not get through", "channel")
CHANNEL_QUEUED = _asked("b3_alert_channel_queued", "Messages that wait to be sent", "channel")

# The machine
SERVICE_UP = _asked("b3_service_up", "1 when a service runs and answers", "service")
HEARTBEAT_AGE = _asked("b3_heartbeat_age_seconds", "Time since a process last gave a sign of life", "process")
DISK_FREE = _asked("b3_disk_free_bytes", "Free on the disk of the home")
DISK_NEEDED = _asked("b3_disk_needed_bytes", "Below this, nothing is started or loaded")
PROBE_FAILURES = Instrument("b3_probe_failures_total", "Questions at scrape time without an answer", ("probe",))

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Instrument))

FETCH_OUTCOMES = ("new", "unchanged", "refused", "failed")
RECORD_OUTCOMES = ("candidates", "loaded", "rejected", "duplicate", "absent", "revised")
TICK_OUTCOMES = ("loaded", "nothing", "failed")
DELIVERY_OUTCOMES = ("sent", "failed", "dropped")
SHADOW_OUTCOMES = ("written", "unchanged", "failed")

_making = threading.Lock()
_home: Path | None = None
_identity: files.Identity | None = None
_instruments: dict[str, Any] = {}


def ready(settings: Settings) -> bool:
    """Lets this process count into files of the home; True when it can. Cheap and harmless to call again."""
    global _home, _identity, _instruments
    with _making:
        if _home == settings.home and _instruments:
            return True
        _close()
        try:
            folder = settings.folder(files.FOLDER)
            _identity = files.Identity(folder)
            _instruments, _home = _made(folder, _identity), settings.home
            if len(list(folder.glob("*.lock"))) > files.MANY:
                files.merge_dead(folder)
        except OSError as error:
            _log.warning("Nothing is counted for Prometheus: %s", error)
        return bool(_instruments)


def stop() -> None:
    """This process counts no more; what it counted stays."""
    with _making:
        _close()


def _close() -> None:
    global _home, _identity, _instruments
    if _identity:
        from prometheus_client.values import close_all_multiprocess_files

        close_all_multiprocess_files()
        _identity.close()
    _home, _identity, _instruments = None, None, {}


def _made(folder: Path, identity: files.Identity) -> dict[str, Any]:
    """All that is counted, in new files of this process. Raises OSError when they cannot be made."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # before the import: the library looks at it there
    from prometheus_client import Counter, Gauge, Histogram, values

    identity()
    values.ValueClass = values.MultiProcessValue(identity)
    made: dict[str, Any] = {}
    for one in ALL:
        if one.asked:
            continue
        if one.kind == "counter":
            made[one.name] = Counter(one.name, one.help, one.labels, registry=None)
        elif one.kind == "gauge":
            made[one.name] = Gauge(one.name, one.help, one.labels, registry=None, multiprocess_mode="mostrecent")
        else:
            made[one.name] = Histogram(one.name, one.help, one.labels, registry=None, buckets=_SECONDS)
    return made


def _harmless(count: Callable[P, None]) -> Callable[P, None]:
    """Whatever is wrong with a count, the work that is counted goes on."""

    @functools.wraps(count)
    def counted(*args: P.args, **kwargs: P.kwargs) -> None:
        if not _instruments:
            return
        try:
            count(*args, **kwargs)
        except Exception as error:
            _log.debug("%s was not counted: %s", count.__name__, error)

    return counted


def _count(instrument: Instrument, outcomes: tuple[str, ...], outcome: str, *labels: str) -> None:
    """Counts one; all outcomes are there from the first on, for Prometheus sees no growth of what was not there."""
    metric = _instruments[instrument.name]
    for other in outcomes:
        metric.labels(*labels, other)
    metric.labels(*labels, outcome).inc()


@_harmless
def fetched(source: str, outcome: str, seconds: float) -> None:
    """An attempt to fetch a source has ended, with one of `FETCH_OUTCOMES`."""
    _count(FETCHES, FETCH_OUTCOMES, outcome, source)
    _instruments[FETCH_SECONDS.name].labels(source).observe(seconds)


@_harmless
def retried(source: str, times: int = 1) -> None:
    """An attempt needed further tries."""
    _instruments[FETCH_RETRIES.name].labels(source).inc(times)


@_harmless
def appended(source: str, received: int) -> None:
    """A payload of so many bytes went into the raw archive."""
    _instruments[ARCHIVE_ENTRIES.name].labels(source).inc()
    _instruments[ARCHIVE_BYTES.name].labels(source).inc(received)


@_harmless
def loaded(table: str, feed: str, counts: Mapping[str, int], seconds: float) -> None:
    """A load into a table has ended; `counts` by the names in `RECORD_OUTCOMES`."""
    metric = _instruments[RECORDS.name]
    for outcome in RECORD_OUTCOMES:
        metric.labels(table, feed, outcome).inc(counts.get(outcome, 0))
    _instruments[LOAD_SECONDS.name].labels(table).observe(seconds)


@_harmless
def ticked(sensor: str, outcome: str, seconds: float) -> None:
    """A sensor had its turn, with one of `TICK_OUTCOMES`."""
    _count(TICKS, TICK_OUTCOMES, outcome, sensor)
    _instruments[TICK_SECONDS.name].labels(sensor).observe(seconds)


@_harmless
def requested(route: str, method: str, status: int, times: int = 1) -> None:
    """Requests were answered, by the pattern of their route."""
    _instruments[REQUESTS.name].labels(route, method, str(status)).inc(times)


@_harmless
def answered(route: str, method: str, seconds: float) -> None:
    """Answering took so long in all."""
    _instruments[REQUEST_SECONDS.name].labels(route, method).inc(seconds)


@_harmless
def payload_compared(outcome: str, times: int = 1) -> None:
    """Answers of both sides were compared, with one of the outcomes of `api.switch.Counts`."""
    _instruments[PAYLOADS.name].labels(outcome).inc(times)


@_harmless
def idea_compared(outcome: str, times: int = 1) -> None:
    """Answers of both stores of the ideas were compared, with one of the outcomes of `postgres.compared.Counts`."""
    _instruments[IDEAS.name].labels(outcome).inc(times)


@_harmless
def checked(table: str, check: str, severity: str, passed: bool) -> None:
    """A check was evaluated; `severity` is WARN or ERROR, whether it passed or not."""
    _count(CHECK_RESULTS, ("true", "false"), str(passed).lower(), table, check, severity)
    _instruments[CHECK_PASSED.name].labels(table, check).set(int(passed))


@_harmless
def shadowed(file: str, outcome: str) -> None:
    """A shadow file was to be written, with one of `SHADOW_OUTCOMES`; `file` is its legacy name."""
    _count(SHADOW_WRITES, SHADOW_OUTCOMES, outcome, file)


@_harmless
def delivered(channel: str, outcome: str) -> None:
    """A message was to go to an alert channel, with one of `DELIVERY_OUTCOMES`."""
    _count(DELIVERIES, DELIVERY_OUTCOMES, outcome, channel)


@_harmless
def unanswered(probe: str) -> None:
    """A probe failed, or took too long."""
    _instruments[PROBE_FAILURES.name].labels(probe).inc()
