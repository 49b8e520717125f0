"""Which composed capture a legacy one is compared with: by when the legacy one says it was taken."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.defs.composed import pairs
from b3_pipeline.parsing.kinds import CAPTURE, COMPOSED
from b3_pipeline.sources.archive import Archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def utc(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2025, 10, day, hour, minute, tzinfo=UTC)


def composed(archive: Archive, at: datetime) -> None:
    archive.append(COMPOSED.name, f"{at}".encode(), name=COMPOSED.file, at=at)


def legacy(archive: Archive, taken: str, at: datetime) -> None:
    archive.append(CAPTURE.name, json.dumps({"timestamp": taken}).encode(), name=CAPTURE.file, at=at)


def paired(archive: Archive) -> list[datetime | None]:
    return [other and other.at for _legacy, other in pairs(archive, 0)]


def test_a_capture_that_was_archived_later_is_compared_with_what_stood_when_it_was_taken(archive: Archive) -> None:
    for at in (utc(13, 12), utc(13, 22), utc(14, 12)):
        composed(archive, at)
    legacy(archive, "2025-10-13T09:00:32", utc(14, 13))
    assert paired(archive) == [utc(13, 12)]


def test_where_none_stood_yet_the_first_one_of_its_session_is_taken(archive: Archive) -> None:
    composed(archive, utc(13, 22))
    composed(archive, utc(14, 12))
    legacy(archive, "2025-10-14T08:59:00", utc(14, 11, 59))
    legacy(archive, "2025-10-10T09:00:32", utc(14, 12, 1))
    assert paired(archive) == [utc(14, 12), None]


def test_one_that_does_not_say_when_it_was_taken_goes_by_when_it_came(archive: Archive) -> None:
    composed(archive, utc(14, 12))
    archive.append(CAPTURE.name, b"[]", name=CAPTURE.file, at=utc(14, 13))
    assert paired(archive) == [utc(14, 12)]
