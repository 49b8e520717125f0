"""A loading process that is killed for real: the next one goes on, and nothing is lost or counted twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from b3_pipeline.loading.load import Loader
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.loading.ticks import NOW, TICKS, Tick, payload

ROWS = 20_000
LOAD = """
import json, sys
from pathlib import Path
from b3_pipeline.loading import writer
from b3_pipeline.loading.load import Loader
from b3_pipeline.questdb import client
from b3_pipeline.questdb.client import Address, QuestDB
from b3_pipeline_tests.loading.ticks import NOW, TICKS, Content, payload

address, path, home, many = sys.argv[1:]
client.MANY_ROWS = writer.MANY_ROWS = int(many)
with QuestDB(Address(**json.loads(address))) as db:
    content = Content.of(Path(path).read_bytes())
    again = payload(Path(path).parent, *content.ticks, chunk=content.chunk)
    Loader(db, Path(home), lambda: NOW, "killed", limit=400).load(again, TICKS)
"""


@pytest.mark.parametrize(("seen", "many"), [(0, 100), (3_000, 100), (12_000, 100), (3_000, 10_000)])
def test_a_killed_load_is_finished_by_the_next_and_every_row_is_there_once(
    db: QuestDB, tmp_path: Path, seen: int, many: int
) -> None:
    ticks = [Tick(minute * 13, f"dxy_{minute % 3}", minute / 10_000) for minute in range(ROWS)]
    content = payload(tmp_path, *ticks, ticks[5], chunk=700)
    home = tmp_path / "home"
    child = subprocess.Popen(
        [sys.executable, "-c", LOAD, json.dumps(asdict(db.address)), str(content.path), str(home), str(many)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    deadline = time.monotonic() + 60
    while db.scalar("select count() from b3_loads") == 0 or db.scalar("select count() from b3_dxy_ticks") < seen:
        assert child.poll() is None, "the load ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait(30)

    [killed] = Loader(db, home, lambda: NOW).ledger.known(content.sha256, TICKS.name, "legacy_csv")
    assert killed.outcome == "started"
    report = Loader(db, home, lambda: NOW, "next").load(content, TICKS)
    assert report.counted.load_id == killed.load_id
    assert report.counted.counts == {
        "candidates": ROWS + 1,
        "loaded": ROWS,
        "rejected": 0,
        "duplicate": 1,
        "absent": 0,
    }
    assert db.query("select count(), count_distinct(load_id), sum(value) from b3_dxy_ticks") == [
        (ROWS, 1, pytest.approx(sum(t.value for t in ticks)))
    ]
    assert not list((home / "spool" / TICKS.name).glob("*"))
    assert not list(Path(str(db.address.import_folder), TICKS.name).glob("*"))
