"""A recording is replayed while servers are stopped and processes are killed: afterwards all of it is stored, once."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from b3_pipeline import dagster_server, processes, residents
from b3_pipeline.clock import Pace, set_clock
from b3_pipeline.home import Holder, State
from b3_pipeline.loading.archived import KINDS, archive_of, drain, loaded_upto, note_loaded
from b3_pipeline.loading.load import Loader
from b3_pipeline.parsing import kinds
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.postgres import server as postgres
from b3_pipeline.postgres.flags import Flags
from b3_pipeline.processes import Record
from b3_pipeline.quality.of_home import context_of
from b3_pipeline.quality.sources import at_hand
from b3_pipeline.quality.validate import validate
from b3_pipeline.questdb import server as questdb
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sample import make_sample
from b3_pipeline.sample_payloads import financial_indicators, gamma_levels, session_samples, settlement_report
from b3_pipeline.services import restarts, running
from b3_pipeline.sessions import session_before
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import Archive, Entry
from b3_pipeline.tables import MARKET_TABLES, TABLES, Table
from b3_pipeline_tests.conftest import environment_of
from b3_pipeline_tests.faults import FAULTS
from b3_pipeline_tests.waiting import processes_of, until

pytestmark = [pytest.mark.xdist_group("up"), pytest.mark.slow]

SESSION = date(2025, 10, 14)
#: When the recording begins: what it holds is of earlier that day, as if a whole session came in within the hour.
BEGINS = datetime(2025, 10, 14, 23, 30, tzinfo=UTC)
EVERY = timedelta(seconds=12)
#: A replay goes so many times as fast while something is away, and slower while that is made up for.
SPEED, SLOW, STILL = 60.0, 12.0, 1e-6
AWAY = timedelta(minutes=5)
PATIENCE_S = 240  # for all that takes seconds on a quiet machine
CODE_SERVER = "code server"  # of the daemon: what runs its sensors
VICTIMS = (postgres.NAME, questdb.NAME, dagster_server.DAEMON, residents.COLLECTOR, CODE_SERVER)
#: Payloads that come in between one kill and the next, at most.
BETWEEN_KILLS = 10
#: After so many kills, at most, all that came in must be there.
KILLS_AT_ONCE = 3
B3_UP = ["-m", "b3_pipeline"]
#: As `b3 up`, but it does not wait longer and longer before it starts again what was killed once more.
QUICK_UP = """
from functools import partial
from b3_pipeline import supervision
from b3_pipeline.cli import main

supervision.BackOff = partial(supervision.BackOff, first_s=0.2, longest_s=0.2)
main()
"""

Row = tuple[Any, ...]  # keys, or values


def record(folder: Path, payloads: int = 0) -> Archive:
    """A recording of a session, and of those before it until there are so many payloads.

    It has all sources, files that grow, and values that are corrected and go back to what they were.
    """
    archive, at, session = Archive(folder), BEGINS, SESSION
    while at < BEGINS + EVERY * max(payloads, 1):
        for source, name, data in _payloads(session):
            if archive.append(source, data, name=name, at=at, session=session, status=200):
                at += EVERY
        session = session_before(session)
    return archive


def _payloads(session: date) -> Iterator[tuple[str, str, bytes]]:
    """Source, name and content of what a session brings."""
    report = f"SPRD{session:%y%m%d}.zip"
    yield kinds.REPORT.name, report, settlement_report(session, seed=1)
    states = _csv_states(session)
    for number, sample in enumerate(session_samples(session)):
        yield sample.source, sample.name, sample.data
        if number % 3 == 0:
            yield kinds.GAMMA_LEVELS.name, kinds.GAMMA_LEVELS.file, gamma_levels(sample.at)
        if number % 5 == 0 and (state := next(states, None)):
            yield state
        if number % 40 == 0:  # corrected and taken back, in turn
            seed = number // 40 % 2
            yield kinds.REPORT.name, report, settlement_report(session, seed)
            yield kinds.FINANCIAL_INDICATORS.name, kinds.FINANCIAL_INDICATORS.file, financial_indicators(session, seed)


def _csv_states(session: date) -> Iterator[tuple[str, str, bytes]]:
    """The legacy CSV files as they grow, line by line."""
    with tempfile.TemporaryDirectory() as folder:
        make_sample(Path(folder), datetime.combine(session, datetime.max.time()), sessions=6)
        files = [kind for kind in LEGACY_KINDS if kind.file.endswith(".csv")]
        lines = {kind: (Path(folder) / kind.file).read_bytes().splitlines(keepends=True) for kind in files}
    for end in range(2, max(map(len, lines.values())) + 1):
        for kind, content in lines.items():
            yield kind.name, kind.file, b"".join(content[:end])


class Stored:
    """What a recording's entries stand for when they are taken in their order, worked out without loading any."""

    def __init__(self, recording: Archive) -> None:
        self.recording = recording
        self.rows: dict[tuple[str, str], dict[Row, Row]] = {}
        self.changes = 0  # values that were given and then changed
        self._upto: dict[str, int] = {}

    def take(self, source: str, upto: int) -> None:
        """Takes the entries of a source up to one."""
        for entry in self.recording.after(source, self._upto.get(source, 0)):
            if entry.seq > upto:
                break
            self._upto[source] = entry.seq
            for name in KINDS[source].tables:
                self._take(entry, TABLES[name])

    def _take(self, entry: Entry, table: Table) -> None:
        kind = KINDS[entry.source]
        mine: dict[Row, Row] = {}
        for chunk in kind.parse(io.BytesIO(self.recording.read(entry)), table).chunks:
            for key, values in _rows(table, chunk.records):
                mine.setdefault(key, values)
        stand = self.rows.setdefault((table.name, kind.feed), {})
        for key, values in mine.items():
            before = stand.get(key, values)
            self.changes += sum(old != new for old, new in zip(before, values, strict=True))
            stand[key] = values


def _rows(table: Table, rows: pa.Table) -> Iterator[tuple[Row, Row]]:
    keys = [rows.column(key).to_pylist() for key in table.keys if key != "feed"]
    values = []
    for column in table.values:
        texts = rows.column(column.name).to_pylist()
        values.append([column.canonical(text) if column.canonical and text else text for text in texts])
    return zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True)


class Up:
    """A running `b3 up` that replays a recording into its home."""

    def __init__(self, settings: Settings, recording: Archive) -> None:
        self.home, self.settings, self.recording = settings.home, settings, recording
        self.archive = archive_of(settings.home)
        self.sources = recording.sources()
        self.stored = Stored(recording)
        self._times = {source: [entry.at for entry in recording.after(source, 0)] for source in self.sources}
        self._end = max(times[-1] for times in self._times.values())

    def pace(self, speed: float) -> None:
        """From now on the replay goes so many times as fast as it was recorded."""
        set_clock(self.home, Pace(self.settings.clock(), datetime.now(UTC), speed, self._end))

    def pass_by(self, time: timedelta) -> None:
        """Lets so much of the replay pass by."""
        then = self.settings.clock() + time
        until(lambda: self.settings.clock() >= then, PATIENCE_S)

    def due(self) -> dict[str, int]:
        """By source, the newest entry of the recording that should be in the archive by now."""
        now = self.settings.clock()
        return {source: bisect_right(times, now) for source, times in self._times.items()}

    def received(self) -> dict[str, int]:
        """By source, the newest entry of the archive."""
        return {source: self.archive.last(source) for source in self.sources}

    def loaded(self) -> dict[str, int]:
        """By source, the newest entry that is loaded, as are all before it."""
        return {source: loaded_upto(self.archive, source) for source in self.sources}

    def wait_loaded(self, entries: Mapping[str, int]) -> None:
        """Returns when the archive has all these entries, and they are loaded."""
        for at in (self.received, self.loaded):
            until(lambda at=at: all(at()[source] >= seq for source, seq in entries.items()), PATIENCE_S)

    def wait_loading(self) -> None:
        """Returns in the middle of a turn, when an entry has been loaded; at once when nothing is left to be loaded."""
        before = self.loaded()
        until(lambda: self.loaded() != before or before == self.due(), PATIENCE_S)

    def kill(self, name: str) -> bool:
        """Kills a service with all that it has started, and no word to any of it; False when it is not there."""
        record = Record.of(self.home, dagster_server.DAEMON if name == CODE_SERVER else name)
        leader = record.process() if record else None
        family = [leader, *leader.children(recursive=True)] if leader else []
        victims = [p for p in family if _is_code_server(p)] if name == CODE_SERVER else family
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        assert processes.wait_ended(victims, 20)
        return bool(victims)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """A service is dead for the length of the block: who would start it again stands still meanwhile."""
        holder = Holder.of(self.home)
        assert holder is not None
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            assert self.kill(name)
            yield
        finally:
            os.kill(holder.pid, signal.SIGCONT)

    def require_whole(self) -> None:
        """The archive has the recording so far, without a gap, and the tables have what it stands for, once."""
        received = self.received()
        for source, last in received.items():
            mine, given = list(self.archive.after(source, 0)), islice(self.recording.after(source, 0), last)
            assert [(e.seq, e.name, e.sha256) for e in mine] == [(e.seq, e.name, e.sha256) for e in given]
            self.stored.take(source, last)
        with self._database() as db:
            for table in TABLES:
                db.wait_applied(table)
            for table in MARKET_TABLES:
                self._require_rows(db, table)
            assert db.query("select file, table_name from b3_loads where outcome != 'loaded'") == []
            assert db.scalar("select count() from b3_loads") == sum(
                seq * len(KINDS[source].tables) for source, seq in received.items()
            )
            assert db.scalar("select count() from b3_revisions") == self.stored.changes

    def require_valid(self) -> None:
        """The project's own checks find nothing wrong: parity above all."""
        with self._database() as db:
            flags = Flags(self.home, None).current()
            found = validate(context_of(self.settings, db, at_hand(None, self.home), None, flags))
        assert found.failed("ERROR") == []

    def _database(self) -> QuestDB:
        servers = running(self.settings)
        assert servers is not None
        return QuestDB(servers.questdb)

    def _require_rows(self, db: QuestDB, table: Table) -> None:
        given = {feed: rows for (name, feed), rows in self.stored.rows.items() if name == table.name}
        schema = table.arrow_schema(tuple(c for c in table.columns if c.name in table.keys or c in table.values))
        found = db.arrow(named("select {columns} from {t}", columns=schema.names, t=table.name), schema=schema)
        feeds = np.array(found.column("feed").to_pylist(), object)
        assert set(feeds) <= set(given)
        for feed, rows in given.items():
            mine = list(_rows(table, found.filter(pa.array(feeds == feed, pa.bool_()))))
            assert len(mine) == len(rows), f"{table.name}, {feed}: a row a key"
            assert dict(mine) == rows


def _is_code_server(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "grpc" in process.cmdline()
    return False


@contextmanager
def up(home: Path, port_base: int, recording: Archive, b3: list[str]) -> Iterator[Up]:
    """`b3 up`, from the moment when the replay begins."""
    environment = environment_of(home, port_base) | {
        "B3_REPLAY_DIR": str(recording.folder),
        "B3_REPLAY_SPEED": str(SPEED),
        "B3_SOURCES_OFF": "",
    }
    settings = Settings(home=home, port_base=port_base, replay_dir=recording.folder, replay_speed=SPEED, sources_off=[])
    with tempfile.TemporaryFile("w+") as told:
        command = [sys.executable, *b3, "up"]
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=told, start_new_session=True)
        try:
            until(lambda: _is_ready(home) or process.poll() is not None, PATIENCE_S)
            told.seek(0)
            assert process.poll() is None, told.read()
            yield Up(settings, recording)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
    assert process.returncode == 0
    assert processes_of(home) == []


def _is_ready(home: Path) -> bool:
    holder = Holder.of(home)
    return holder is not None and holder.state == State.READY


def test_what_was_loaded_before_its_cursor_was_kept_is_read_again_and_changes_nothing(home: Path, db: QuestDB) -> None:
    archive, kind = archive_of(home), kinds.FINANCIAL_INDICATORS
    for seed in (0, 1, 0, 2):
        archive.append(kind.name, financial_indicators(SESSION, seed), name=kind.file, at=BEGINS)
    loader = Loader(db, home, lambda: BEGINS)

    def turn(after: int, enough: bool = False) -> int:
        return drain(loader, archive, kind.name, after, lambda: enough).seq

    def stored() -> Any:
        tables = ("b3_indicators_daily", "b3_loads", "b3_revisions")
        for table in tables:
            db.wait_applied(table)
        return [sorted(map(repr, db.query(named("select * from {t}", t=table)))) for table in tables]

    assert turn(0) == 4
    before = stored()
    for after in (0, 1, 2, 3):
        assert turn(after, enough=True) == after + 1, "a turn whose time is up"
        assert turn(after) == 4
        assert stored() == before
    note_loaded(archive, kind.name, 3)  # killed between the last load and its note
    assert turn(0) == 4
    assert stored() == before


def test_a_replay_through_outages_of_both_databases_and_killed_processes_is_stored_whole_and_once(
    bare_home: Path, port_base: int, tmp_path: Path
) -> None:
    with up(bare_home, port_base, record(tmp_path / "recording"), B3_UP) as here:
        for server in (postgres.NAME, questdb.NAME):
            here.pace(SLOW)
            here.wait_loading()
            here.pace(SPEED)
            with here.without(server):
                before = sum(here.received().values())
                here.pass_by(AWAY)
                missed = here.received()
                here.pace(SLOW)
            assert sum(missed.values()) - before > 10, "collecting goes on"
            if server == postgres.NAME:
                here.wait_loaded(missed)
        here.wait_loading()
        killed = dagster_server.DAEMON, residents.COLLECTOR
        for victim in killed:
            assert here.kill(victim)
        here.pace(SPEED * 10)
        here.wait_loaded({source: here.recording.last(source) for source in here.sources})
        here.require_whole()
        here.require_valid()
        again = restarts(here.settings)
        assert all(again[name] for name in (postgres.NAME, questdb.NAME, *killed))


@pytest.mark.skipif(not FAULTS, reason="takes long: `make faults`")
def test_killed_again_and_again_at_any_moment_what_came_in_is_stored_whole_and_once(
    bare_home: Path, port_base: int, tmp_path: Path
) -> None:
    chance, killed = random.Random(5), 0
    recording = record(tmp_path / "recording", (FAULTS + KILLS_AT_ONCE) * BETWEEN_KILLS)
    with up(bare_home, port_base, recording, ["-c", QUICK_UP]) as here:
        while killed < FAULTS:
            for _ in range(chance.randint(1, KILLS_AT_ONCE)):
                here.pace(SPEED)
                here.pass_by(EVERY * chance.uniform(1, BETWEEN_KILLS - 2))
                if chance.random() < 0.5:
                    here.pace(STILL)
                    here.wait_loading()
                victim = next(iter(chance.choices(VICTIMS, (6, 6, 6, 6, 1))))
                killed += here.kill(victim)
            here.pace(SPEED)
            here.pass_by(EVERY)
            here.pace(STILL)
            here.wait_loaded(here.due())
            here.require_whole()
