"""In phase frozen nothing comes of the legacy side: readers of files get what readers of routes get."""

from __future__ import annotations

from datetime import UTC, datetime

from b3_pipeline.cutover.advance import advance
from b3_pipeline.cutover.link import NAME
from b3_pipeline.parsing.kinds import CAPTURE
from b3_pipeline.postgres.flags import Flags
from b3_pipeline.quality.of_home import live_of
from b3_pipeline.sample_payloads import capture
from b3_pipeline.shadow.drift import drift
from b3_pipeline_tests.cutover.conftest import Office
from b3_pipeline_tests.cutover.test_rollback import live


def test_the_composed_capture_is_the_current_file_until_a_legacy_one_of_its_session_comes(office: Office) -> None:
    live(office)
    office.phase("shadow")
    advance(office.desk())
    office.phase("frozen")
    current = office.home / NAME / CAPTURE.file
    assert current.read_bytes() == office.files()[CAPTURE.file]
    composed = office.compose(datetime(2025, 10, 14, 12, tzinfo=UTC))
    assert current.read_bytes() == composed
    assert [(one.file, one.table, one.problems) for one in drift(office.db, current.parent) if not one.ok] == []
    assert len(list((current.parent / "historico").iterdir())) == 2  # none of ours
    current.write_bytes(composed + b"\n")
    assert {one.file for one in drift(office.db, current.parent) if not one.ok} == {CAPTURE.file}
    moment = datetime(2025, 10, 14, 12, 0, 32, tzinfo=UTC)
    office.collect(CAPTURE.name, capture(moment), CAPTURE.file, moment)
    assert current.read_bytes() == capture(moment)
    assert [one for one in drift(office.db, current.parent) if not one.ok] == []


def test_nothing_is_expected_of_the_legacy_sources_any_more(office: Office) -> None:
    before = {source.name for source in live_of(office.settings, "active")}
    assert {"ultimo_dado", "ajustes_b3"} <= before
    assert {source.name for source in live_of(office.settings, "frozen")} == {"composed_capture"}
    office.phase("frozen")
    assert Flags(office.home, office.dsn).current().phase() == "frozen"
    assert office.desk().context.live == live_of(office.settings, "frozen")
