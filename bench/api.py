"""The API beside the server that it replaces: requests a second, latency, how far behind the table it is while writing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import httpx2
import numpy as np
import pyarrow as pa

from b3_pipeline.legacy_documents import brazilian
from b3_pipeline.ports import HOST, is_free
from b3_pipeline.postgres.flags import set_flag
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import PROJECT
from b3_pipeline.tables import TABLES
from bench.registry import Figures, Options, benchmark
from bench.up import up

CONNECTIONS, SECONDS, ROUNDS = 16, 8, 3
RATE, RATE_S = 100, 20
WRITES = 60
LEGACY_SERVER = PROJECT.parent / "shared" / "tools" / "legacy_json_server.py"
RECORDED = PROJECT.parent / "shared" / "data" / "legacy" / "clean"
_REQUESTS = re.compile(r"Requests/sec:\s+([\d.]+)")
_P99 = re.compile(r"99%\s+([\d.]+)(us|ms|s)")
_WRONG = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors")
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@benchmark("api")
def api(options: Options) -> list[Figures]:
    """`/ultimo-dado` and `/api/v1/overview` against the legacy server, alternating; latency at a steady rate; staleness."""
    for program in ("wrk", "hey"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not here: apt-get install {program}")
    options.say("api: starting `b3 up` with the recorded folder")
    with (
        up(options.folder / "home", "--legacy", str(RECORDED)) as services,
        _legacy(RECORDED) as legacy,
        QuestDB(services.engines.questdb) as db,
    ):
        base = f"http://{HOST}:{services.settings.ports.page}"
        # else the legacy side would answer, and what is measured were a file
        set_flag(services.engines.postgres_dsn, "phase", "active", why="a benchmark", at=datetime.now(UTC))
        _until_active(base)
        return [_against(base, legacy, options), _steady(base, options), _staleness(base, db, options)]


def _until_active(base: str) -> None:
    deadline = time.monotonic() + 30
    while httpx2.get(f"{base}/api/v1/health", trust_env=False).json()["phase"] != "active":
        if time.monotonic() > deadline:
            raise SystemExit("The API does not follow the phase.")
        time.sleep(0.1)


@contextmanager
def _legacy(folder: Path) -> Iterator[str]:
    port = next(port for port in range(18_082, 18_982) if is_free(port))
    argv = [sys.executable, str(LEGACY_SERVER), str(folder), "--port", str(port)]
    with subprocess.Popen(argv) as server:
        try:
            address = f"http://{HOST}:{port}"
            while True:
                try:
                    httpx2.get(f"{address}/status", trust_env=False)
                    break
                except httpx2.HTTPError:
                    time.sleep(0.05)
            yield address
        finally:
            server.terminate()


def _against(base: str, legacy: str, options: Options) -> Figures:
    targets = {
        "legacy server, /ultimo-dado": f"{legacy}/ultimo-dado",
        "ours, /ultimo-dado": f"{base}/ultimo-dado",
        "ours, /api/v1/overview": f"{base}/api/v1/overview",
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in targets}
    for address in targets.values():
        _wrk(address, 2)
    for turn in range(ROUNDS):
        for name, address in targets.items():
            options.say(f"api: round {turn + 1} of {ROUNDS}, {name}")
            found[name].append(_wrk(address, SECONDS))
    medians = {name: (median(r for r, _ in runs), median(p for _, p in runs)) for name, runs in found.items()}
    rival = medians["legacy server, /ultimo-dado"][0]
    rows = [(name, f"{r:,.0f}", f"{r / rival:.2f} ×", f"{p:.1f}") for name, (r, p) in medians.items()]
    header = ("what", "requests/s", "÷ legacy", "p99, ms")
    note = f"wrk, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS} s each, alternating; medians."
    return Figures("The API beside the legacy server", header, rows, note)


def _wrk(address: str, seconds: int) -> tuple[float, float]:
    """Requests a second, and the 99th percentile of latency in ms."""
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", address]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    rate, p99 = _REQUESTS.search(said), _P99.search(said)
    if rate is None or p99 is None or _WRONG.search(said):
        raise SystemExit(f"{address}: not all was answered well:\n{said}")
    return float(rate[1]), float(p99[1]) * _MS[p99[2]]


def _steady(base: str, options: Options) -> Figures:
    options.say(f"api: {RATE} requests/s for {RATE_S} s")
    argv = ["hey", "-z", f"{RATE_S}s", "-q", str(RATE // 10), "-c", "10", "-o", "csv", f"{base}/api/v1/overview"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=RATE_S + 60).stdout.splitlines()
    times = np.array([float(line.split(",")[0]) for line in lines[1:]]) * 1e3
    row = (
        f"{len(times) / RATE_S:.0f}",
        *(f"{part:.1f}" for part in np.percentile(times, (50, 99))),
        f"{times.max():.1f}",
    )
    header = ("requests/s", "p50, ms", "p99, ms", "longest, ms")
    return Figures("/api/v1/overview at a steady rate", header, [row], "hey, 10 connections.")


def _staleness(base: str, db: QuestDB, options: Options) -> Figures:
    """How long after a capture shows in the table the API still gives the one before, asked all the time."""
    options.say(f"api: {WRITES} captures while somebody asks")
    captures, behind = TABLES["b3_captures"], []
    day = datetime.now(UTC).replace(tzinfo=None)
    with httpx2.Client(base_url=base, trust_env=False) as client:
        for number in range(WRITES):
            text = _document(day, number)
            row = {
                "ts": pa.array([day], pa.timestamp("us")),
                "endpoint": ["ultimo-dado"],
                "payload": [text],
                "sha256": [hashlib.sha256(text.encode()).hexdigest()],
                "ingested_at": pa.array([day], pa.timestamp("us")),
                "feed": ["legacy_capture"],
                "load_id": [number],
            }
            behind.append(_until_given(client, db, captures.name, pa.table(row), text))
            day += (datetime.now(UTC).replace(tzinfo=None) - day) + np.timedelta64(1, "s").astype(
                "timedelta64[us]"
            ).item()
    parts = [*np.percentile(np.array(behind) * 1e3, (50, 99)), max(behind) * 1e3]
    row = (str(len(behind)), *(f"{part:.0f}" for part in parts))
    return Figures("How far behind the table", ("writes", "p50, ms", "p99, ms", "longest, ms"), [row])


def _document(day: datetime, number: int) -> str:
    price = 5_500 + number / 1_000
    block = {"vencimento": "X25", "preco": brazilian(price, 3), "preco_numerico": price}
    return json.dumps({"timestamp": day.isoformat(), "status": "sucesso", "DOL": block})


def _until_given(client: httpx2.Client, db: QuestDB, table: str, row: pa.Table, text: str) -> float:
    """Seconds from when the row shows in the table to when the API gives it."""
    given: list[float] = []

    def ask() -> None:
        while client.get("/ultimo-dado").text != text:
            pass
        given.append(time.monotonic())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    db.send(table, row)
    db.wait_applied(table)
    shows = time.monotonic()
    thread.join(10)
    if not given:
        raise SystemExit("A capture that is stored is not given within 10 s.")
    return max(0.0, given[0] - shows)
