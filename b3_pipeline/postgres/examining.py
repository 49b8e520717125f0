"""Whether a PostgreSQL of one's own is as it should be: version, TLS, what each role may do, who owns what. Only looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected
from b3_pipeline.postgres.dsn import checked
from b3_pipeline.postgres.roles import ALL_ROWS, OLDEST, OWNER, RIGHTS, Role, rights_on

#: So many of what is wrong are named.
_NAMED = 4
_TABLES: LiteralString = """
select n.nspname, c.relname,
    array(select has_table_privilege(c.oid, r.name) from unnest(%s::text[]) with ordinality r (name, place) order by r.place)
from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = any(%s) and c.relkind in ('r', 'p', 'v', 'm')
    and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e') order by 1, 2
"""
_SCHEMAS: LiteralString = """
select nspname, pg_get_userbyid(nspowner), has_schema_privilege(oid, 'usage'), has_schema_privilege(oid, 'create')
from pg_namespace where nspname = any(%s) order by 1
"""
_OWNERS: LiteralString = """
select distinct n.nspname, pg_get_userbyid(c.relowner) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any(%s) and c.relkind in ('r', 'p', 'v', 'm')
    and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e') order by 1, 2
"""
_AGAIN = "`b3 postgres setup` puts it right: docs/postgres.md."


class NotExamined(B3Error):
    """PostgreSQL does not say what was asked."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is as it should be, what was found, and what to do when it is not."""

    name: str
    good: bool
    found: str
    advice: str = ""


def examined(role: Role, dsn: str) -> Iterator[Finding]:
    """What is found by the DSN of a role. A server's own user for everything is no fault, as long as he owns it all.

    Raises NotExamined, BadDsn.
    """
    with connected(checked(dsn, role.variable), error=NotExamined, what="to be examined", connect_timeout_s=5) as db:
        user = db.info.user
        yield _connection(db, role)
        if role is OWNER:
            yield _owned(db, user)
            yield _encoding(db)
        elif user == role.name:
            yield _rights(db, role)
        else:
            yield Finding(f"{role.name}'s rights", False, f"its DSN is of {user}", f"Name {role.name} in it.")


def _connection(db: psycopg.Connection, role: Role) -> Finding:
    name = f"PostgreSQL as {role.name}" if db.info.user == role.name else f"PostgreSQL for {role.variable}"
    version = db.info.server_version // 10_000
    by = "without TLS, on this machine"  # the DSN was checked: elsewhere there is none without
    row = db.execute("select version from pg_stat_ssl where pid = pg_backend_pid() and ssl").fetchone()
    if row is not None:
        by = f"{row[0]}, {_trust(db)}"
    advice = "" if version >= OLDEST else f"PostgreSQL ≥ {OLDEST} is needed."
    return Finding(name, version >= OLDEST, f"{db.info.user}, PostgreSQL {version}, {by}", advice)


def _trust(db: psycopg.Connection) -> str:
    """What is known of the server that has answered."""
    mode = db.info.get_parameters().get("sslmode", "")
    known = {"verify-full": "certificate and name verified", "verify-ca": "certificate verified, name not looked at"}
    return known.get(mode, "certificate not looked at: sslmode=verify-full would")


def _owned(db: psycopg.Connection, user: str) -> Finding:
    """Whoever migrates has to own what he changes."""
    schemas = [(schema, owner) for schema, owner, *_ in db.execute(_SCHEMAS, (_ours(),))]
    tables = [(schema, owner) for schema, owner in db.execute(_OWNERS, (list(RIGHTS),))]
    wrong = [f"{schema} is {owner}'s" for schema, owner in schemas if owner != user]
    wrong += [f"tables of {schema} are {owner}'s" for schema, owner in tables if owner != user]
    there = ", ".join(schema for schema, _ in schemas) or "no schema of ours yet"
    return Finding("PostgreSQL's owners", not wrong, _listed(wrong) or f"{there}: {user}", _AGAIN if wrong else "")


def _ours() -> list[str]:
    """The schemas that are ours alone; `public` is the server's."""
    return [schema for schema in RIGHTS if schema != "public"]


def _encoding(db: psycopg.Connection) -> Finding:
    """Texts are any characters: a database of one alphabet would refuse some, or cannot fold them for a search."""
    found = db.info.parameter_status("server_encoding") or "unknown"
    advice = "" if found == "UTF8" else "Make a database anew: `b3 postgres setup --at …` with another name."
    return Finding("PostgreSQL's encoding", found == "UTF8", found, advice)


def _rights(db: psycopg.Connection, role: Role) -> Finding:
    wrong: list[str] = []
    for schema, _, may_use, may_make in db.execute(_SCHEMAS, (list(RIGHTS),)).fetchall():
        wanted = role.name in RIGHTS[schema]
        if wanted and not may_use:
            wrong.append(f"may not use {schema}")
        if may_make:
            wrong.append(f"may make tables in {schema}")
    for schema, table, has in db.execute(_TABLES, (list(ALL_ROWS), list(RIGHTS))).fetchall():
        rights = rights_on(role.name, schema, table)
        for right, has_it in zip(ALL_ROWS, has, strict=True):
            if has_it != (right in rights):
                wrong.append(f"may {'' if has_it else 'not '}{right} {schema}.{table}")
    advice = _AGAIN if wrong else ""
    return Finding(f"{role.name}'s rights", not wrong, _listed(wrong) or role.purpose, advice)


def _listed(wrong: list[str]) -> str:
    more = len(wrong) - _NAMED
    return "; ".join(wrong[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
