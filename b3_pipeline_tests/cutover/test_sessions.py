"""A week through all phases and back, on a clock that is moved on: live writes, the real API, and sixteen readers of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from b3_pipeline.alerts.watching import beat
from b3_pipeline.clock import Pace, set_clock
from b3_pipeline.cutover.advance import Advanced, advance
from b3_pipeline.cutover.rollback import rollback
from b3_pipeline.defs.composed import compare
from b3_pipeline.defs.resources import Store
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, LEGACY_KINDS
from b3_pipeline.ports import HOST
from b3_pipeline.postgres import mismatches
from b3_pipeline.quality.validate import validate
from b3_pipeline.sample_payloads import Sample, session_samples
from b3_pipeline.sessions import to_utc
from b3_pipeline_tests.cutover.conftest import Office
from b3_pipeline_tests.waiting import until

pytestmark = [pytest.mark.slow]
READERS = 16
ROUTES = ("/ultimo-dado", "/gamma", "/status")


def local(day: int, hour: int, minute: int = 0, second: int = 0) -> datetime:
    return to_utc(datetime(2025, 10, day, hour, minute, second)).replace(tzinfo=UTC)


class Readers:
    """Clients of the legacy routes that never pause; what is not answered well is kept."""

    def __init__(self, port: int) -> None:
        self.base, self.stop = f"http://{HOST}:{port}", threading.Event()
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []
        self.threads = [threading.Thread(target=self._read, args=(n,), daemon=True) for n in range(READERS)]

    def _read(self, number: int) -> None:
        with httpx2.Client(base_url=self.base, trust_env=False, timeout=60, headers={"User-Agent": "sheet"}) as client:
            while not self.stop.is_set():
                path = ROUTES[number % len(ROUTES)]
                try:
                    reply = client.get(path)
                    if reply.status_code != 200:
                        self.failed.append(f"{path}: {reply.status_code}")
                except httpx2.HTTPError as error:
                    self.failed.append(f"{path}: {error!r}")
                self.answers[path] += 1
                time.sleep(0.02)  # the machine is the tests', too

    def get(self, path: str) -> bytes:
        """What a reader is answered now."""
        return httpx2.get(f"{self.base}{path}", trust_env=False, timeout=60).content


class Week:
    """The home, its clock, and what each session brings."""

    def __init__(self, office: Office, readers: Readers) -> None:
        self.office, self.readers = office, readers
        self.compared = 0

    def at(self, moment: datetime) -> datetime:
        """It is that moment now, for every process of the home, and stays so."""
        set_clock(self.office.home, Pace(moment, datetime.now(UTC), speed=1e-6))
        return moment

    def session(self, day: int, *, legacy: bool = True, ours: bool = True) -> bytes | None:
        """A session from morning to night: what we compose, what the legacy side writes, what the sources bring."""
        samples = {sample.source: sample for sample in session_samples(date(2025, 10, day))}
        composed = self.office.compose(self.at(local(day, 9))) if ours else None
        if legacy:
            for kind in (CAPTURE, GAMMA):
                self._written(samples[kind.name])
        if ours:
            self.compared = compare(Store(), self.compared, self.at(local(day, 9, 30)))
        self.evening(samples)
        if legacy:
            self._csv_lines(day)
        self.at(local(day, 22))
        return composed

    def evening(self, samples: dict[str, Sample]) -> None:
        """The reports of a session."""
        for source in ("vol_surface", "settlement_report", "financial_indicators"):
            self.collect(samples[source])

    def collect(self, sample: Sample) -> None:
        self.office.collect(sample.source, sample.data, sample.name, self.at(sample.at))

    def _written(self, sample: Sample) -> None:
        """As a careful collector writes; its sensor has it soon after."""
        self.at(sample.at)
        draft = self.office.legacy / f".{sample.name}.new"
        draft.write_bytes(sample.data)
        draft.replace(self.office.legacy / sample.name)
        self.office.collect(sample.source, sample.data, sample.name, sample.at)

    def _csv_lines(self, day: int) -> None:
        """The legacy collector's morning line in each of its CSV files: that of the day before again."""
        moment = self.at(local(day, 20, 5))
        for kind in (kind for kind in LEGACY_KINDS if kind.file.endswith(".csv")):
            path = self.office.legacy / kind.file
            lines = path.read_text("utf-8").splitlines()
            last = [line for line in lines if line[:10] == lines[-1][:10]]
            lines += [f"{day:02}{line[2:]}" for line in last if not line.startswith(f"{day:02}-10-2025")]
            path.write_text("\n".join(lines) + "\n", "utf-8")
            self.office.collect(kind.name, path.read_bytes(), kind.file, moment)

    def step(self, *, override: bool = False) -> Advanced:
        beat(self.office.home / "monitor")
        return advance(self.office.desk(), override=override, why="a test", who="ana")

    def follows(self, phase: str) -> float:
        """How long readers take to be where the phase says, in seconds."""
        began = time.monotonic()
        until(lambda: httpx2.get(f"{self.readers.base}/api/v1/health", trust_env=False).json()["phase"] == phase)
        return time.monotonic() - began

    def parity(self) -> bool:
        return validate(self.office.desk().context).ok


@contextmanager
def served(port_base: int, home: Path) -> Iterator[Readers]:
    """The real API over the home, and its readers."""
    environment = {**os.environ, "B3_PORT_BASE": str(port_base)}
    with (home.parent / "api.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "b3_pipeline.api"], env=environment, stderr=log)
    readers = Readers(port_base)
    try:
        until(lambda: _answers(readers), 120)
        for thread in readers.threads:
            thread.start()
        yield readers
    finally:
        readers.stop.set()
        for thread in readers.threads:
            if thread.ident:
                thread.join(60)
        process.terminate()
        process.wait(30)


def _answers(readers: Readers) -> bool:
    try:
        return all(httpx2.get(readers.base + path, trust_env=False).status_code == 200 for path in ROUTES)
    except httpx2.HTTPError:
        return False


def test_a_week_through_all_phases_and_back_and_forward_again(
    office: Office, port_base: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("B3_NOW")
    newest = lambda *_given: SimpleNamespace(id="nightly", at=office.settings.clock())  # noqa: E731
    monkeypatch.setattr("b3_pipeline.backup.backups.newest_verified", newest)
    set_clock(office.home, Pace(local(13, 22), datetime.now(UTC), speed=1e-6))
    with served(port_base, office.home) as readers:
        week = Week(office, readers)
        samples = {sample.source: sample for sample in session_samples(date(2025, 10, 13))}
        week.evening(samples)
        week.at(local(13, 22))
        assert (done := week.step()).red == [], done.red
        assert week.follows("shadow") < 5
        week.session(14)
        assert mismatches.open_count(office.dsn) == 0
        assert (done := week.step()).red == [], done.red
        assert week.follows("active") < 5
        composed = week.session(15)
        refused = week.step()  # somebody reads still
        assert [gate.name for gate in refused.red] == ["callers"]
        assert "(sheet)" in refused.red[0].evidence
        assert week.step(override=True).phase == "frozen"
        composed = week.session(16, legacy=False)
        assert composed is not None
        until(lambda: readers.get("/ultimo-dado") == composed)
        assert week.parity()
        back = rollback(office.desk(), collectors_stopped=True, why="a test")
        assert (back.readers_s or 0) < 5
        assert week.follows("legacy") < 5
        until(lambda: readers.get("/ultimo-dado") == (office.legacy / CAPTURE.file).read_bytes())
        assert week.parity()
        assert back.proven
        week.session(17, ours=False)  # the legacy collectors are started again
        assert (done := week.step()).red == [], done.red
        assert week.follows("shadow") < 5
        week.session(20)
        assert (done := week.step()).red == [], done.red
        assert week.follows("active") < 5
        assert week.parity()
    assert readers.failed == []
    assert all(readers.answers[path] for path in ROUTES)
    print(f"\n{sum(readers.answers.values())} answers, none failed; readers were back in {back.readers_s} s")
