"""Gaps that the desk declares in its settings: no check misses them, and all others still show."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.quality.checks import checks_of
from b3_pipeline.quality.gaps import known_gaps
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.settings import KnownGap, Settings
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.quality.conftest import Desk

MARCH = """
[[known_gaps]]
feed = "legacy_csv"
first = 2025-03-01
last = 2025-03-14
why = "o coletor ficou parado"

[[known_gaps]]
feed = "legacy_csv"
first = 2025-03-17
last = 2025-03-31
why = "idem"
"""


def missing(folder: Path) -> set[str]:
    """The sessions that the check misses, as Dagster and `b3 validate` are given what is known."""
    [check] = [check for check in checks_of(TABLES["b3_adjustments"]) if check.name == "gaps"]
    with Store().quality(Inputs(legacy_dir=str(folder)), "run-1") as context:
        return {row["partition"] for row in check.run(context, ALWAYS).offending}


def test_a_gap_that_is_declared_in_the_settings_is_not_missed(home: Path, settled: Desk) -> None:
    before = missing(settled.folder)
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    assert {"2025-03-06", "2025-03-31"} <= missing(settled.folder) - before
    (home / "settings.toml").write_text(MARCH)
    assert missing(settled.folder) == before


def test_gaps_of_one_feed_are_together_and_of_others_apart() -> None:
    day = {"first": "2025-03-06", "last": "2025-03-06", "why": "-"}
    gaps = known_gaps(KnownGap.model_validate({"feed": feed, **day}) for feed in ("a", "b", "a"))
    assert {feed: len(windows) for feed, windows in gaps.items()} == {"a": 2, "b": 1}


@pytest.mark.parametrize("wrong", [MARCH.replace("2025-03-14", "2025-02-14"), MARCH.replace("why", "because")])
def test_a_gap_that_is_none_is_refused(home: Path, wrong: str) -> None:
    (home / "settings.toml").write_text(wrong)
    with pytest.raises(ValidationError, match="known_gaps"):
        Settings()
