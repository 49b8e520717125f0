"""The cutover's switch: how long readers of routes and of files take to be back with the legacy side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sized
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import numpy as np

from b3_pipeline.cutover.link import NAME
from b3_pipeline.parsing.kinds import CAPTURE
from b3_pipeline.ports import HOST
from b3_pipeline.postgres.flags import history
from b3_pipeline.sample import make_sample
from b3_pipeline.settings import PROJECT
from bench.registry import Figures, Options, benchmark
from bench.up import Up, up

READERS, TURNS, SESSIONS = 16, 5, 60
#: The legacy side's own layout of its document: ours is kept as it first came.
_MARK = b'"fonte":"'


class _Readers:
    """Clients of `/ultimo-dado` that never pause: when each had the legacy side's answer again after having had ours."""

    def __init__(self, base: str) -> None:
        self.base, self.stop = base, threading.Event()
        self.asked, self.failed, self.back = 0, 0, dict[int, float]()
        self.forward = set[int]()  # who has had our answer: a step forward reaches the API a moment later

    def read(self, number: int) -> None:
        """Asks until it is told to stop."""
        with httpx2.Client(base_url=self.base, trust_env=False, timeout=10) as client:
            while not self.stop.is_set():
                try:
                    reply = client.get("/ultimo-dado")
                    self.failed += reply.status_code != 200
                    if _MARK not in reply.content:
                        self.forward.add(number)
                    elif number in self.forward:
                        self.back.setdefault(number, time.time())
                except httpx2.HTTPError:
                    self.failed += 1
                self.asked += 1


@benchmark("cutover")
def cutover(options: Options) -> list[Figures]:
    """Forward to active and back, with readers that ask all the time; what is timed begins when the phase is set."""
    legacy = options.folder / "legacy"
    make_sample(legacy, datetime.now(UTC), sessions=SESSIONS)
    document = legacy / CAPTURE.file
    switches, links, whole, asked, failed = [], [], [], 0, 0
    with up(options.folder / "home", "--legacy", str(legacy), B3_LEGACY_DIR=str(legacy)) as services:
        document.write_bytes(_marked(document.read_bytes()))
        base = f"http://{HOST}:{services.settings.ports.page}"
        for turn in range(TURNS):
            options.say(f"cutover: there and back, {turn + 1} of {TURNS}")
            for _ in range(2):
                _b3(services, legacy, "advance", "--override", "--why", "a benchmark")
            readers = _Readers(base)
            threads = [threading.Thread(target=readers.read, args=(n,)) for n in range(READERS)]
            for thread in threads:
                thread.start()
            _wait_for_all(readers.forward, "Not all readers are with our side.")
            began = time.monotonic()
            done = _b3(services, legacy, "rollback", "--collectors-stopped", "--why", "a benchmark")
            whole.append(time.monotonic() - began)
            _wait_for_all(readers.back, "Not all readers are back with the legacy side.")
            readers.stop.set()
            for thread in threads:
                thread.join()
            since = _phase_set(services)
            switches += [moment - since for moment in readers.back.values()]
            links.append(os.lstat(services.settings.home / NAME).st_mtime - since)
            asked, failed = asked + readers.asked, failed + readers.failed
            if not done["ok"]:
                raise SystemExit(f"The way back did not end well: {done}")
    rows = [
        ("routes: phase set → a reader has the legacy answer", *_quantiles(switches)),
        ("files: phase set → the link leads to the legacy folder", *_quantiles(links)),
        ("the whole command: list, switch, backup, replay, load, proof", *_quantiles(whole)),
    ]
    note = f"{READERS} readers, {TURNS} times there and back, {SESSIONS} sessions; {asked:,} answers, {failed} failed. Aim: ≤ 1 s."
    return [Figures("The readers' switch on a rollback", ("what", "p50, s", "longest, s"), rows, note)]


def _wait_for_all(readers: Sized, why_not: str) -> None:
    deadline = time.monotonic() + 30
    while len(readers) < READERS:
        if time.monotonic() > deadline:
            raise SystemExit(why_not)
        time.sleep(0.05)


def _quantiles(seconds: list[float]) -> tuple[str, str]:
    return f"{np.median(seconds):.2f}", f"{max(seconds):.2f}"


def _marked(document: bytes) -> bytes:
    return json.dumps(json.loads(document), ensure_ascii=False, separators=(",", ":")).encode()


def _phase_set(services: Up) -> float:
    """When the phase was set last, in seconds since 1970, by the flags' own history."""
    newest = next(entry for entry in history(services.engines.postgres_dsn) if entry.name == "phase")
    if newest.since is None:
        raise SystemExit("Nobody has set a phase.")
    return newest.since.timestamp()


def _b3(services: Up, legacy: Path, *arguments: str) -> dict[str, object]:
    settings = services.settings
    ours = {"B3_HOME": str(settings.home), "B3_PORT_BASE": str(settings.port_base), "B3_LEGACY_DIR": str(legacy)}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("B3_", "DAGSTER_"))} | ours
    command = [sys.executable, "-m", "b3_pipeline", "cutover", *arguments, "--json"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"b3 cutover {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)
