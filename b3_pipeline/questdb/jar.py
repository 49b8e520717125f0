"""The QuestDB server's program: one jar of a fixed version and checksum, fetched once a machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs
from filelock import FileLock

from b3_pipeline.errors import B3Error
from b3_pipeline.progress import Report

VERSION = "9.3.4"
SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"


class NoJar(B3Error):
    """The QuestDB server's program cannot be had."""


def cached_jar() -> Path:
    """Where the jar lies once it was fetched: `B3_JAR_CACHE`, else the user's cache folder. All homes share it."""
    folder = os.environ.get("B3_JAR_CACHE") or platformdirs.user_cache_path("b3_pipeline")
    return Path(folder) / f"questdb-{VERSION}.jar"


def questdb_jar(report: Report) -> Path:
    """The jar's path; fetches it from Maven Central when this machine does not have it yet.

    Raises NoJar when it can be neither found nor fetched, or is not the one that we know.
    """
    jar = cached_jar()
    jar.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(jar.with_suffix(".lock")):
        if not jar.exists():
            report(f"First start on this machine: fetching QuestDB {VERSION} (30 MB) to {jar.parent}")
            _fetch(jar, report)
    if (found := _sha256(jar)) != SHA256:
        raise NoJar(
            f"{jar} is not QuestDB {VERSION} (its SHA-256 is {found[:12]}…, not {SHA256[:12]}…). "
            "Delete it; the next start fetches it again."
        )
    return jar


def _fetch(jar: Path, report: Report) -> None:
    # jgo takes 0.3 s to import, and a machine needs it once
    from jgo.maven import MavenContext, PythonResolver
    from requests import RequestException

    with tempfile.TemporaryDirectory(dir=jar.parent, prefix=".fetch-") as draft:
        maven = MavenContext(
            resolver=PythonResolver(progress_callback=report.bytes), repo_cache=Path(draft), timeout=30
        )
        try:
            artifact = maven.project("org.questdb", "questdb").at_version(VERSION).artifact().resolve()
        except (RequestException, RuntimeError, OSError) as error:
            raise NoJar(
                f"QuestDB {VERSION} could not be fetched: {error}\nThe network is needed once, for Maven Central. Without "
                f"it, put questdb-{VERSION}.jar (org.questdb:questdb:{VERSION}) at {jar}, or set B3_QUESTDB_URL to a "
                "QuestDB server of your own."
            ) from error
        if (found := _sha256(artifact)) != SHA256:
            raise NoJar(
                f"What came as questdb-{VERSION}.jar is not it (SHA-256 {found[:12]}…, not {SHA256[:12]}…): the download "
                "was cut or changed on its way. Nothing was kept; try again, or ask whoever runs your mirror."
            )
        shutil.move(artifact, jar)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
