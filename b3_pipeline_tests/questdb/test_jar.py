from __future__ import annotations

from pathlib import Path

import pytest

from b3_pipeline.progress import SILENT, Report
from b3_pipeline.questdb.jar import NoJar, cached_jar, questdb_jar


class Heard(Report):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("B3_JAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_jar_that_is_there_is_taken_without_a_word() -> None:
    questdb_jar(SILENT)
    heard = Heard()
    assert questdb_jar(heard) == cached_jar()
    assert heard.messages == []


def test_without_a_network_the_error_says_where_to_put_the_jar(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    heard = Heard()
    with pytest.raises(NoJar) as error:
        questdb_jar(heard)
    assert "First start on this machine" in heard.messages[0]
    assert str(empty_cache / "questdb-9.3.4.jar") in str(error.value)
    assert "B3_QUESTDB_URL" in str(error.value)
    assert [p.name for p in empty_cache.iterdir() if p.suffix != ".lock"] == []


def test_another_jar_in_its_place_is_refused(empty_cache: Path) -> None:
    empty_cache.mkdir()
    cached_jar().write_bytes(b"PK")
    with pytest.raises(NoJar, match="Delete it"):
        questdb_jar(SILENT)
