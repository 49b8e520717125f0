"""A day in shadow through `b3 up`: the legacy side writes, clients ask, and every answer is compared with ours."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import httpx2
import pyarrow as pa
import pytest

from b3_pipeline.loading.archived import archive_of
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA
from b3_pipeline.ports import HOST
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sample_payloads import capture, gamma_levels
from b3_pipeline.services import known_engines
from b3_pipeline.sessions import to_utc
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.cli.test_services import answer, environment, run  # noqa: F401
from b3_pipeline_tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("up")]
DAY = date(2025, 10, 14)
_LEVELS_FROM, _LEVELS_UNTIL, _EVERY = time(9, 5, 12), time(18), timedelta(minutes=15)


def documents() -> list[tuple[str, datetime, bytes]]:
    """What the legacy collector writes in the session (local time): the morning's capture, then levels each quarter of an hour."""
    moment = datetime.combine(DAY, time(9, 0, 32))
    made = [(CAPTURE.file, moment, capture(_utc(moment)))]
    moment = datetime.combine(DAY, _LEVELS_FROM)
    while moment.time() < _LEVELS_UNTIL:
        made.append((GAMMA.file, moment, gamma_levels(_utc(moment))))
        moment += _EVERY
    return made


def _utc(local: datetime) -> datetime:
    return to_utc(local).replace(tzinfo=UTC)


class Desk:
    """A client of the legacy routes and of ours."""

    def __init__(self, port: int) -> None:
        self.client = httpx2.Client(base_url=f"http://{HOST}:{port}", trust_env=False, timeout=30)
        self.answers = 0

    def ask(self) -> dict[str, bytes]:
        """What the legacy routes answer, by the name of the file; they never fail."""
        found = {path: self.client.get(path) for path in ("/ultimo-dado", "/gamma", "/status")}
        assert {path: reply.status_code for path, reply in found.items()} == dict.fromkeys(found, 200)
        self.answers += len(found)
        return {CAPTURE.file: found["/ultimo-dado"].content, GAMMA.file: found["/gamma"].content}

    def ours(self, name: str, moment: datetime) -> bytes:
        """Our document of a past moment (local)."""
        path = "/ultimo-dado" if name == CAPTURE.file else "/gamma"
        return self.client.get(path, params={"em": moment.isoformat()}).content

    def parity(self) -> dict:
        return self.client.get("/api/v1/parity").json()

    def compared(self) -> Counter[str]:
        """How many answers were compared, by what came of it."""
        found: Counter[str] = Counter()
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith("b3_payload_comparisons_total{"):
                found[line.split('outcome="')[1].split('"')[0]] += int(float(line.rsplit(" ", 1)[1]))
        return +found


def written(folder: Path, name: str, data: bytes) -> None:
    """As a careful collector writes: beside, then in place."""
    draft = folder / f".{name}.new"
    draft.write_bytes(data)
    draft.replace(folder / name)


def test_a_day_in_shadow_has_no_mismatch_and_a_planted_one_is_found_kept_and_shown(
    environment: dict[str, str],  # noqa: F811
    shared: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "legacy"
    shutil.copytree(shared / "data" / "legacy" / "clean", folder)
    environment["B3_LEGACY_DIR"] = str(folder)
    home = Path(environment["B3_HOME"])
    up = run(
        environment, "up", "--legacy", folder, "--detach", "--json"
    )  # its history is migrated before a shadow begins
    assert up.returncode == 0, up.stderr
    desk = Desk(int(environment["B3_PORT_BASE"]))
    try:
        answer(run(environment, "cutover", "advance", "--override", "--why", "a day in shadow", "--json"))
        until(lambda: desk.client.get("/api/v1/cutover").json()["phase"] == "shadow")
        day = documents()
        for name, _moment, data in day:
            written(folder, name, data)
            until(lambda: desk.ask()[name] == data and kept_in(home, name, data))  # noqa: B023
        until(lambda: desk.ask() and all(desk.ours(name, moment) == data for name, moment, data in day), 120)
        so_far = desk.compared()["equal"]
        until(lambda: desk.ask() and desk.compared()["equal"] > so_far + 2 * len(day))  # and so the day's own are, too
        print(f"\n{len(day)} documents of a day, {desk.answers} answers in shadow, compared: {dict(desk.compared())}")
        assert set(desk.compared()) == {"equal"}
        parity = desk.parity()
        assert (parity["phase"], parity["mismatches"], parity["payloads"]) == ("shadow", 0, [])
        plant(Settings(home=home, port_base=int(environment["B3_PORT_BASE"])))
        until(lambda: desk.ask() and desk.parity()["mismatches"] == 1)
        [kept] = desk.parity()["payloads"]
        assert (kept["endpoint"], kept["legacy"].encode(), kept["ours"]) == ("gamma", day[-1][2], "{}")
        assert f"diferenca-{kept['id']}" in desk.client.get("/paridade").text
    finally:
        desk.client.close()
        run(environment, "down")


def kept_in(home: Path, name: str, data: bytes) -> bool:
    """Whether the collector has this state of a file: a collector that wrote on at once would leave us a hole."""
    kind = CAPTURE if name == CAPTURE.file else GAMMA
    newest = archive_of(home).newest(kind.name)
    return newest is not None and newest.sha256 == hashlib.sha256(data).hexdigest()


def plant(settings: Settings) -> None:
    """Makes our newest levels something else than what came."""
    with QuestDB(known_engines(settings).questdb) as db:
        schema = TABLES["b3_captures"].arrow_schema()
        rows = db.arrow("select * from b3_captures where endpoint = 'gamma' order by ts desc limit 1", schema=schema)
        place = schema.get_field_index("payload")
        db.send("b3_captures", rows.set_column(place, schema.field(place), pa.array(["{}"], schema.field(place).type)))
