"""PostgreSQL's part of a backup: dump, restore and row counts, by its own programs. No password is in a command line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected
from b3_pipeline.postgres.dsn import checked
from b3_pipeline.postgres.server import BINARIES, VERSION

_TABLES = """
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema' order by 1, 2
"""
_WHAT = "to be backed up or restored"
#: What pg_restore says first since 17, and no older server knows; and within so many bytes.
_UNKNOWN, _HEAD = b"SET transaction_timeout = 0;", 4_096


class DumpFailed(B3Error):
    """PostgreSQL could not be dumped or restored."""


def dump(dsn: str, target: Path) -> tuple[dict[str, int], str]:
    """Dumps the DSN's database into a file of pg_dump's custom form; gives the rows by table, and the server's version.

    The counts are those of the very state that is dumped. Raises DumpFailed.
    """
    with connected(dsn, error=DumpFailed, what=_WHAT) as db:
        _require_old_enough(db)
        db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with db.transaction():
            [(snapshot,)] = db.execute("select pg_export_snapshot()").fetchall()
            _run(*_asked(dsn, "pg_dump"), "--format=custom", f"--snapshot={snapshot}", f"--file={target}")
            return _counted(db), db.info.parameter_status("server_version") or ""


def restore(dsn: str, source: Path) -> None:
    """Restores a dump into the DSN's database, in which there is no table: all of it or nothing. Raises DumpFailed.

    Its statements lie beside it meanwhile: older servers do not know one of them, so pg_restore cannot send them itself.
    """
    script = source.with_suffix(".sql")
    try:
        _run({}, "pg_restore", "--no-owner", "--no-privileges", f"--file={script}", str(source))
        with script.open("r+b") as stream:
            position = stream.read(_HEAD).find(_UNKNOWN)
            if position >= 0:
                stream.seek(position)
                stream.write(b"--" + b" " * (len(_UNKNOWN) - 2))
        stop = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--output=/dev/null")
        _run(*_asked(dsn, "psql"), *stop, f"--file={script}")
    finally:
        script.unlink(missing_ok=True)


def size(dsn: str) -> int:
    """The bytes of the DSN's database. Raises DumpFailed, also where its server is too new to be dumped."""
    with connected(dsn, error=DumpFailed, what=_WHAT) as db:
        _require_old_enough(db)
        return db.execute("select pg_database_size(current_database())").fetchall()[0][0]


def counts(dsn: str) -> dict[str, int]:
    """The rows of each table in the DSN's database, by `schema.table`. Raises DumpFailed."""
    with connected(dsn, error=DumpFailed, what=_WHAT) as db:
        return _counted(db)


def _counted(db: psycopg.Connection) -> dict[str, int]:
    count = sql.SQL("select count(*) from {}")
    names = db.execute(_TABLES).fetchall()
    found = {f"{s}.{t}": db.execute(count.format(sql.Identifier(s, t))).fetchone() for s, t in names}
    return {name: row[0] if row else 0 for name, row in found.items()}


def _require_old_enough(db: psycopg.Connection) -> None:
    found = db.info.server_version // 10_000
    if found > VERSION:
        raise DumpFailed(
            f"The server is PostgreSQL {found}, and this release's pg_dump is of {VERSION}: it refuses newer servers. Dump "
            "it with that server's own pg_dump, or update b3_pipeline."
        )


def _asked(dsn: str, program: str) -> tuple[dict[str, str], str, str, str]:
    """A program with a database: all of the DSN that has a variable of libpq's goes that way."""
    options = [option for option in Conninfo.parse(checked(dsn).encode()) if option.val]
    given = {o.envvar.decode(): (o.val or b"").decode() for o in options if o.envvar}
    shown = {o.keyword.decode(): (o.val or b"").decode() for o in options if not (o.envvar or o.dispchar == b"*")}
    return given, program, "--no-password", f"--dbname={make_conninfo('', dbname=given.get('PGDATABASE'), **shown)}"


def _run(variables: Mapping[str, str], program: str, *arguments: str) -> None:
    env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/"), **variables}
    command = [str(BINARIES / program), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error:" in line.lower() or "fatal:" in line.lower()]
        raise DumpFailed(f"{program} failed: {lines[0] if lines else f'code {done.returncode}'}")
