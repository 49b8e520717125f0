"""The demonstration: a synthetic history, and the last session replayed as if it were now, faster if one likes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from b3_pipeline.clock import FILE as CLOCK_FILE
from b3_pipeline.clock import Pace, set_clock
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.archived import archive_of
from b3_pipeline.parsing import kinds
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, LEGACY_KINDS
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.questdb.server import NAME as QUESTDB
from b3_pipeline.sample import make_sample
from b3_pipeline.sample_payloads import Sample, gamma_levels, session_samples
from b3_pipeline.services import engines
from b3_pipeline.sessions import session_before, session_of, to_local, to_utc
from b3_pipeline.settings import REPLAYING, Settings
from b3_pipeline.sources.archive import Archive

FOLDER, HISTORY, RECORDING = "demo", "history", "recording"
SESSIONS = 60
#: When the replayed session begins: a little before its first data.
OPENS = time(8, 48)
_CSV_READ_AT = time(20, 1)
_DOCUMENTS = {CAPTURE.name: time(9, 3), GAMMA.name: time(9, 5)}
_OF_THE_EVENING = (
    kinds.REPORT.name,
    kinds.VOL_SURFACE.name,
    kinds.FINANCIAL_INDICATORS.name,
    kinds.DXY_CHART.name,
    kinds.GAMMA_LEVELS.name,
)
_STANDS_STILL = 1e-6
_LEVELS_EVERY = timedelta(minutes=15)


@dataclass(frozen=True)
class Demo:
    """A legacy folder with the sessions before, and the recording of the one that is replayed."""

    session: date
    history: Path
    recording: Path


def prepare(settings: Settings, speed: float, real: datetime) -> Demo:
    """Makes the demonstration of a home where there is none yet; the home's clock stands still until `begin`.

    It is of the last session before `real` (aware UTC), and goes on where it was; one that is over stays so, for another
    history would be stored beside its own. Raises UsageError for a home that holds real data.
    """
    demo = _of_home(settings.home)
    _require_own(settings, begun=demo is not None)
    if demo is None:
        demo = _made(settings.folder(FOLDER), session_of(to_local(real).date()))
    begin(settings.home, demo, _STANDS_STILL, real)
    text = f"replay_dir = {json.dumps(str(demo.recording))}\nreplay_speed = {speed}\n"
    (settings.home / REPLAYING).write_text(text, "utf-8")
    return demo


def begin(home: Path, demo: Demo, speed: float, real: datetime) -> None:
    """Sets the clock of a home to where its replay is, from the real time (aware UTC) on at a pace."""
    set_clock(home, Pace(_position(home, demo), real, speed, _end(demo)))


def is_over(home: Path, demo: Demo) -> bool:
    """Whether all of the session has been replayed."""
    return _position(home, demo) >= _end(demo) - timedelta(minutes=1)


def require_none(settings: Settings) -> None:
    """Raises UsageError for a home that lives in a replayed day: real data would be of another time, and mix with it."""
    if (settings.home / CLOCK_FILE).exists():
        raise UsageError(
            f"{settings.home} holds a demonstration, whose clock shows another day. `b3 up --demo` goes on with it; for real "
            "data set B3_HOME to another folder (and B3_PORT_BASE, to run both)."
        )


def _require_own(settings: Settings, *, begun: bool) -> None:
    """Raises UsageError where synthetic data would mix with real ones: in a used home, or on a server of one's own."""
    if settings.questdb_url:
        raise UsageError(
            "A demonstration does not load synthetic data into a QuestDB of your own: unset B3_QUESTDB_URL for it."
        )
    if begun:
        return
    if archive_of(settings.home).sources() or _has_loads(settings):
        raise UsageError(
            f"{settings.home} holds real data, and a demonstration must not mix with it: set B3_HOME to another folder."
        )


def _has_loads(settings: Settings) -> bool:
    """Whether anything was ever loaded into the home's QuestDB, which is started for the question where need be."""
    if not (settings.home / QUESTDB).exists():
        return False
    with engines(settings) as servers, QuestDB(servers.questdb) as db:
        there = db.query("select table_name from tables() where table_name = 'b3_loads'")
        return bool(there and db.scalar("select count() from b3_loads"))


def _of_home(home: Path) -> Demo | None:
    """The newest demonstration of a home."""
    found = sorted((home / FOLDER).glob("????-??-??"))
    return _in(found[-1]) if found else None


def _in(folder: Path) -> Demo:
    return Demo(date.fromisoformat(folder.name), folder / HISTORY, folder / RECORDING)


def _made(folder: Path, session: date) -> Demo:
    """Makes a demonstration out of sight, and then moves it in place."""
    place = folder / session.isoformat()
    draft = folder / f".{session}"
    shutil.rmtree(draft, ignore_errors=True)
    whole = draft / "whole"
    make_sample(whole, _moment(session, time(23)), SESSIONS)
    recording = Archive(draft / RECORDING)
    for of, sample in sorted(_samples(whole, session), key=lambda each: each[1].at):
        recording.append(sample.source, sample.data, name=sample.name, at=sample.at, session=of, status=200)
    _take_out(whole, session)
    whole.rename(draft / HISTORY)
    draft.rename(place)
    return _in(place)


def _samples(folder: Path, session: date) -> Iterator[tuple[date, Sample]]:
    """What there is of the session before when it opens, and what it brings itself; each with the session that it is of."""
    before = session_before(session)
    last = {sample.source: sample for sample in session_samples(before) if sample.source in _OF_THE_EVENING}
    yield from ((before, replace(sample, at=_moment(session, OPENS))) for sample in last.values())
    yield from ((session, sample) for sample in session_samples(session) if sample.source not in _DOCUMENTS)
    for kind in LEGACY_KINDS:
        at = _moment(session, _DOCUMENTS.get(kind.name, _CSV_READ_AT))
        yield session, Sample(kind.name, kind.file, at, (folder / kind.file).read_bytes())
    at, closes = _moment(session, time(9, 20)), _moment(session, time(18))
    while at < closes:
        yield session, Sample(kinds.GAMMA_LEVELS.name, kinds.GAMMA_LEVELS.file, at, gamma_levels(at))
        at += _LEVELS_EVERY


def _take_out(folder: Path, session: date) -> None:
    """Makes a folder what it was on the evening before: that session's lines go, and its documents."""
    mark = f"{session:%d-%m-%Y},"
    for kind in LEGACY_KINDS:
        path = folder / kind.file
        if path.suffix == ".csv":
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(line for line in lines if not line.startswith(mark.encode())))
    older = sorted((folder / "historico").glob(CAPTURE.history or ""))
    older[-1].rename(folder / CAPTURE.file)
    (folder / GAMMA.file).unlink()


def _position(home: Path, demo: Demo) -> datetime:
    """How far the replay of a session is: the newest of its payloads that came in (aware UTC), at least its beginning."""
    archive, opens = archive_of(home), _moment(demo.session, OPENS)
    newest = [entry.at for source in archive.sources() if (entry := archive.newest(source))]
    return max([opens, *(at for at in newest if at <= _end(demo))])


def _end(demo: Demo) -> datetime:
    recording = Archive(demo.recording)
    return max(entry.at for source in recording.sources() if (entry := recording.newest(source)))


def _moment(session: date, local: time) -> datetime:
    return to_utc(datetime.combine(session, local)).replace(tzinfo=UTC)
