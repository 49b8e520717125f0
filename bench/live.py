"""Live collection under a real `b3 up`: how soon a change shows, what a turn with nothing new takes, memory of a session."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np

from b3_pipeline.loading.archived import archive_of
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.catalog import SOURCES
from bench.changes import NOW, SHOWN, Change, changes, shown
from bench.registry import Figures, Options, benchmark
from bench.up import LOADS, Tick, Up, up

CHANGES, WITHIN_S = 200, 75
SEED = 5
#: After the last change, all must show within so long.
PATIENCE_S = 240
#: Changes of each source that are made before, one at a time: until then the server compiles what it is asked.
WARM = 8
LOOK_EVERY_S = 0.05
QUIET_S = 40
SPEED = 60
#: How long a session of the demonstration is when it is replayed so fast.
SESSION_S = 680
SAMPLE_EVERY_S = 2
_MEGA = 1 << 20


@benchmark("live")
def live(options: Options) -> list[Figures]:
    """Latency over six sources, idle turns, and memory while a part of a session is replayed."""
    folder = options.folder / "legacy"
    folder.mkdir()
    #: Nobody in the world is asked: the collector watches the legacy folder, and the rest comes as from a second collector.
    watched = {SOURCES[kind.name].name for kind in LEGACY_KINDS if SOURCES[kind.name].watchable}
    off = ",".join(name for name in SOURCES if name not in watched)
    options.say("live: starting `b3 up`")
    variables = {"B3_LEGACY_DIR": str(folder), "B3_NOW": NOW.isoformat(), "B3_SOURCES_OFF": off}
    with up(options.folder / "home", **variables) as services, QuestDB(services.engines.questdb) as db:
        found = [*_latency(services, db, folder, options), _idle(services, options)]
    return [*found, _memory(options)]


@dataclass(frozen=True)
class Seen:
    """A change: when it was made, when it was in the archive, and when it showed (seconds since 1970)."""

    source: str
    made: float
    archived: float
    showed: float

    @property
    def seconds(self) -> float:
        return self.showed - self.made


def _latency(services: Up, db: QuestDB, folder: Path, options: Options) -> list[Figures]:
    archive = archive_of(services.settings.home)
    count = -(-CHANGES // len(SHOWN))
    to_come = {source: list(changes(source, WARM + count)) for source in SHOWN}
    options.say(f"live: {WARM} changes of each source before")
    for _ in range(WARM):
        _watched(db, archive, folder, [(0.0, of_source.pop(0)) for of_source in to_come.values()])
    options.say(f"live: {CHANGES} changes in {WITHIN_S} s")
    load, began = os.getloadavg()[0], time.time()
    seen = _watched(db, archive, folder, _plan(to_come))
    _wait_for_turns(services, max(one.showed for one in seen))
    ticks = [tick for tick in services.ticks(began - PATIENCE_S) if tick.outcome == "loaded"]
    by_source: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        by_source[one.source].append(one)
    rows = [("all", *_spread([one.seconds for one in seen]))]
    rows += [(source, *_spread([one.seconds for one in mine])) for source, mine in by_source.items()]
    note = f"Seconds from a change to its records in the last of its source's tables. Load average before: {load:.1f}."
    header = ("source", "changes", "p50", "p90", "p99", "longest")
    return [Figures("From a change to QuestDB", header, rows, note), _stages(seen, ticks)]


def _plan(to_come: dict[str, list[Change]]) -> list[tuple[float, Change]]:
    """When (seconds from now) each change is made: at times of chance, in step with nothing, in their order a source.

    Two of one source are no closer than half a second: no collector overwrites its document faster.
    """
    dice = random.Random(SEED)
    all_of_them = [change for of_source in zip(*to_come.values(), strict=True) for change in of_source][:CHANGES]
    plan = []
    for source in to_come:
        mine = [change for change in all_of_them if change.source == source]
        slot = WITHIN_S / len(mine)
        plan += [(slot * place + dice.uniform(0, slot - 0.5), change) for place, change in enumerate(mine)]
    return plan


def _watched(db: QuestDB, archive: Archive, folder: Path, plan: Sequence[tuple[float, Change]]) -> list[Seen]:
    """Makes the changes, those of each source in a thread of its own, and watches all that have not shown yet."""
    made: dict[tuple[str, datetime], float] = {}
    start = time.time()
    before = {source: archive.last(source) for source in SHOWN}

    def make(mine: Iterable[tuple[float, Change]]) -> None:
        for at, change in mine:
            time.sleep(max(0.0, start + at - time.time()))
            made[change.source, change.ts] = time.time()
            _make(change, archive, folder)

    threads = [
        threading.Thread(target=make, args=([each for each in plan if each[1].source == source],), daemon=True)
        for source in SHOWN
    ]
    for thread in threads:
        thread.start()
    showed = _until_shown(db, made, len(plan), start + max(at for at, _ in plan) + PATIENCE_S)
    archived = {
        (source, ts): archive.entry_path(entry).stat().st_mtime
        for source in SHOWN
        for ts, entry in zip(
            sorted(t for s, t in made if s == source), archive.after(source, before[source]), strict=True
        )
    }
    return [Seen(key[0], made[key], archived[key], showed[key]) for key in made]


def _make(change: Change, archive: Archive, folder: Path) -> None:
    """Overwrites the legacy collector's document, or archives a payload as a collector does that has just fetched it."""
    source = SOURCES[change.source]
    if source.watchable:
        draft = folder / f".{change.name}"
        draft.write_bytes(change.data)
        draft.replace(folder / change.name)
    else:
        archive.append(change.source, change.data, name=change.name, at=NOW, session=change.session, status=200)


def _until_shown(
    db: QuestDB, made: dict[tuple[str, datetime], float], count: int, deadline: float
) -> dict[tuple[str, datetime], float]:
    """When each change showed, to some hundredths of a second; `made` grows meanwhile."""
    showed: dict[tuple[str, datetime], float] = {}
    while len(showed) < count:
        for source in SHOWN:
            if pending := {ts for of, ts in list(made) if of == source and (of, ts) not in showed}:
                there, now = shown(db, source, min(pending)), time.time()
                showed |= {(source, ts): now for ts in there & pending}
        if time.time() > deadline:
            missing = sorted({source for source, ts in made if (source, ts) not in showed})
            raise SystemExit(f"{count - len(showed)} changes never showed: {', '.join(missing)}")
        time.sleep(LOOK_EVERY_S)
    return showed


def _wait_for_turns(services: Up, after: float) -> None:
    """Returns when each sensor has made a turn that began after a moment: those before it have ended then."""
    deadline = time.monotonic() + PATIENCE_S
    while {tick.sensor for tick in services.ticks(after)} < {f"{LOADS}{source}" for source in SOURCES}:
        if time.monotonic() > deadline:
            raise SystemExit("The sensors make no turns any more.")
        time.sleep(0.5)


def _stages(seen: Sequence[Seen], ticks: Sequence[Tick]) -> Figures:
    """Where a change waits. The turn that showed it is the last one of its sensor that had begun by then."""
    begins = [
        max(t.began for t in ticks if t.sensor == f"{LOADS}{one.source}" and t.began <= one.showed) for one in seen
    ]
    stages = {
        "until it is in the archive": [one.archived - one.made for one in seen],
        "until the turn of its sensor begins": [
            max(0.0, began - one.archived) for one, began in zip(seen, begins, strict=True)
        ],
        "until the turn has it stored": [
            one.showed - max(began, one.archived) for one, began in zip(seen, begins, strict=True)
        ],
        "the whole turn, with checks and report": [tick.seconds for tick in ticks if tick.ended > min(begins)],
    }
    rows = [(stage, *_spread(seconds)) for stage, seconds in stages.items()]
    return Figures("Where the time goes", ("stage", "times", "p50", "p90", "p99", "longest"), rows, "Seconds.")


def _idle(services: Up, options: Options) -> Figures:
    """Turns with nothing new: as the daemon sees them, with its own work in PostgreSQL, and the function alone."""
    options.say(f"live: {QUIET_S} s with nothing new")
    began, before = time.time(), services.turns()
    time.sleep(QUIET_S)
    after = services.turns()
    ticks = [tick.seconds * 1e3 for tick in services.ticks(began) if tick.outcome == "nothing"]
    turns, alone = after[0] - before[0], after[1] - before[1]
    row = (str(len(ticks)), f"{median(ticks):.0f}", f"{max(ticks):.0f}", f"{alone / turns * 1e3:.1f}")
    header = ("turns", "median, ms", "longest, ms", "the function alone, mean, ms")
    return Figures("A turn with nothing new", header, [row])


def _memory(options: Options) -> Figures:
    options.say(f"live: starting `b3 up --demo --speed {SPEED}`")
    seconds = SESSION_S * options.session
    samples: list[dict[str, int]] = []
    with up(options.folder / "replay", "--demo", "--speed", str(SPEED)) as services:
        options.say(f"live: {seconds:.0f} s of replay")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            samples.append(services.resident())
            time.sleep(SAMPLE_EVERY_S)
    quarters = np.array_split(np.arange(len(samples)), 4)
    rows = []
    for name in samples[0]:
        second, last = (median(samples[at][name] for at in quarters[q]) / _MEGA for q in (1, 3))
        peak = max(sample[name] for sample in samples) / _MEGA
        rows.append((name, f"{second:.0f} MB", f"{last:.0f} MB", f"{last / second:.2f}", f"{peak:.0f} MB"))
    header = ("process", "second quarter", "last quarter", "ratio", "peak")
    note = f"Medians of resident memory, {options.session:.0%} of a session replayed {SPEED} times as fast."
    return Figures("Memory while a session is replayed", header, rows, note)


def _spread(seconds: Sequence[float]) -> tuple[str, ...]:
    parts = [*np.percentile(seconds, (50, 90, 99)), max(seconds)]
    return (str(len(seconds)), *(f"{part:.2f}" for part in parts))
