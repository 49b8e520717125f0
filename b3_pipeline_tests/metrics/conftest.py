"""Fixtures for metrics: a home in which this process counts, and what Prometheus would read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from b3_pipeline.metrics import files, instruments
from b3_pipeline.settings import Settings


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a home in which this process counts until the test's end."""
    settings = Settings(home=tmp_path / "home")
    assert instruments.ready(settings)
    yield settings
    instruments.stop()


def counted(home: Path) -> dict[tuple[str, ...], float]:
    """What all processes counted: by (name, label values in the order of their names), without zeros."""
    samples = [sample for metric in files.read(home / files.FOLDER) for sample in metric.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples if s.value}
