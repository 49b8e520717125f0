"""PostgreSQL's part of a backup: dump, restore and row counts, by its own programs. No password is in a command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected
from b3_pipeline.postgres.dsn import ENCRYPTED, checked, parts_of
from b3_pipeline.postgres.roles import set_apart
from b3_pipeline.postgres.server import BINARIES, VERSION

_TABLES = """
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname not like 'pg\\_%%' and n.nspname <> 'information_schema'
and n.nspname = coalesce(%s::text, n.nspname) order by 1, 2
"""
_WHAT = "to be backed up or restored"
_PG_RESTORE = str(BINARIES / "pg_restore")  # it reads files only
_DEBIANS = Path("/usr/lib/postgresql")
_SCHEMA = re.compile(r"\d+; \d+ \d+ SCHEMA - (\S+) ")  # as pg_restore lists it
#: What pg_restore says first since 17, and no older server knows; and within so many bytes.
_UNKNOWN, _HEAD = b"SET transaction_timeout = 0;", 4_096


class DumpFailed(B3Error):
    """PostgreSQL could not be dumped or restored."""


def dump(dsn: str, target: Path, schema: str | None = None) -> tuple[dict[str, int], str]:
    """Dumps the DSN's database into a file of pg_dump's custom form; gives the rows by table, and the server's version.

    With `schema` that one alone. The counts are those of the very state that is dumped. Raises DumpFailed.
    """
    with connected(dsn, error=DumpFailed, what=_WHAT) as db:
        _require_old_enough(db, dsn)
        db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with db.transaction():
            [(snapshot,)] = db.execute("select pg_export_snapshot()").fetchall()
            part = [] if schema is None else [f"--schema={schema}"]
            _run(*_asked(dsn, "pg_dump"), "--format=custom", f"--snapshot={snapshot}", f"--file={target}", *part)
            return _counted(db, schema), db.info.parameter_status("server_version") or ""


def restore(dsn: str, source: Path) -> None:
    """Restores a dump into the DSN's database, in which there is no table: all of it or nothing. Raises DumpFailed.

    Schemas that are there stay, with what their owner has said of rights on tables to come. Its statements lie beside it
    meanwhile: older servers do not know one of them, so pg_restore cannot send them itself.
    """
    script, wanted = source.with_suffix(".sql"), source.with_suffix(".list")
    try:
        wanted.write_text(_contents(source, _schemas(dsn)), "utf-8")
        _run({}, _PG_RESTORE, "--no-owner", "--no-privileges", f"--use-list={wanted}", f"--file={script}", str(source))
        with script.open("r+b") as stream:
            position = stream.read(_HEAD).find(_UNKNOWN)
            if position >= 0:
                stream.seek(position)
                stream.write(b"--" + b" " * (len(_UNKNOWN) - 2))
        stop = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--output=/dev/null")
        _run(*_asked(dsn, "psql"), *stop, f"--file={script}")
        with connected(dsn, error=DumpFailed, what=_WHAT) as db:
            set_apart(db)
    finally:
        script.unlink(missing_ok=True)
        wanted.unlink(missing_ok=True)


def _schemas(dsn: str) -> set[str]:
    with connected(dsn, error=DumpFailed, what=_WHAT) as db:
        return {name for (name,) in db.execute("select nspname from pg_namespace")}


def _contents(source: Path, there: Collection[str]) -> str:
    """What is in a dump, as pg_restore lists it, without the schemas that are there already."""
    lines = _run({}, _PG_RESTORE, "--list", str(source)).splitlines(keepends=True)
    return "".join(line for line in lines if not ((made := _SCHEMA.match(line)) and made[1] in there))


def size(dsn: str) -> int:
    """The bytes of the DSN's database. Raises DumpFailed, also where its server is too new to be dumped."""
    with connected(dsn, error=DumpFailed, what=_WHAT) as db:
        _require_old_enough(db, dsn)
        return db.execute("select pg_database_size(current_database())").fetchall()[0][0]


def counts(dsn: str) -> dict[str, int]:
    """The rows of each table in the DSN's database, by `schema.table`. Raises DumpFailed."""
    with connected(dsn, error=DumpFailed, what=_WHAT) as db:
        return _counted(db)


def _counted(db: psycopg.Connection, schema: str | None = None) -> dict[str, int]:
    count = sql.SQL("select count(*) from {}")
    names = db.execute(_TABLES, (schema,)).fetchall()
    found = {f"{s}.{t}": db.execute(count.format(sql.Identifier(s, t))).fetchone() for s, t in names}
    return {name: row[0] if row else 0 for name, row in found.items()}


def programs_of(dsn: str) -> tuple[Path, int]:
    """Where the programs are that reach the server of a DSN, and their major version. Raises DumpFailed and BadDsn.

    Ours are built without TLS: for a server that wants it, it is those that this machine has installed. They are not newer
    than ours, which have to read what they dump.
    """
    if parts_of(dsn).get("sslmode") not in ENCRYPTED:
        return BINARIES, VERSION
    found = {version: folder for folder in _installed() if (version := _version(folder)) <= VERSION}
    if not found:
        raise DumpFailed(
            "Over TLS a server is dumped and restored by PostgreSQL's own programs, and this machine has none of version "
            f"{VERSION} or older: install those of the server's version (Debian: postgresql-client)."
        )
    return found[max(found)], max(found)


def _installed() -> list[Path]:
    folders = sorted(path.parent for path in _DEBIANS.glob("*/bin/pg_dump"))
    in_path = shutil.which("pg_dump")
    return [*([Path(in_path).parent] if in_path else []), *folders]


def _version(folder: Path) -> int:
    """The major version of the programs in a folder; of none that can be run a very new one."""
    told = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\) (\d+)", told)
    return int(found[1]) if found else 10_000


def _require_old_enough(db: psycopg.Connection, dsn: str) -> None:
    found, version = db.info.server_version // 10_000, programs_of(dsn)[1]
    if found > version:
        raise DumpFailed(
            f"The server is PostgreSQL {found}, and the pg_dump at hand is of {version}: it refuses newer servers. Dump "
            "it with that server's own pg_dump, or update b3_pipeline."
        )


def _asked(dsn: str, program: str) -> tuple[dict[str, str], str, str, str]:
    """A program with a database: all of the DSN that has a variable of libpq's goes that way."""
    options = [option for option in Conninfo.parse(checked(dsn).encode()) if option.val]
    given = {o.envvar.decode(): (o.val or b"").decode() for o in options if o.envvar}
    shown = {o.keyword.decode(): (o.val or b"").decode() for o in options if not (o.envvar or o.dispchar == b"*")}
    command = str(programs_of(dsn)[0] / program)
    return given, command, "--no-password", f"--dbname={make_conninfo('', dbname=given.get('PGDATABASE'), **shown)}"


def _run(variables: Mapping[str, str], program: str, *arguments: str) -> str:
    env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/"), **variables}
    done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error:" in line.lower() or "fatal:" in line.lower()]
        raise DumpFailed(f"{Path(program).name} failed: {lines[0] if lines else f'code {done.returncode}'}")
    return done.stdout
