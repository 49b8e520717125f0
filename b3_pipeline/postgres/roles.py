"""Who may do what on a PostgreSQL of one's own: three roles, and the SQL with which an administrator makes them.

Making them again changes nothing that is as it should be, and puts right what is not: rights that somebody has given
beside go, and what others have made in our schemas is the owner's afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import LiteralString
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
from psycopg import sql

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.dsn import checked, reason

#: PostgreSQL's major version from which on everything of ours works.
OLDEST = 14
DATABASE = "b3"
#: The setting with the administrator's DSN.
ADMIN = "B3_POSTGRES_ADMIN_DSN"


class SetupFailed(B3Error):
    """The roles cannot be made on that server, or not by that user."""


@dataclass(frozen=True)
class Role:
    """A role: its name, the setting that has its DSN, the file in `secrets/` with its password, and what it is for."""

    name: str
    setting: str
    secret: str
    purpose: str

    @property
    def variable(self) -> str:
        """The setting as it stands in the environment."""
        return f"B3_{self.setting.upper()}"


OWNER = Role("b3_owner", "postgres_dsn", "postgres_owner", "owns the database: migrations, Dagster, loads, backups")
APP = Role("b3_app", "postgres_app_dsn", "postgres_app", "reads, writes ideas and what the API counts: the API")
READER = Role("b3_reader", "postgres_reader_dsn", "postgres_reader", "reads ideas and warehouse: panels, people")
ROLES = (OWNER, APP, READER)

Rights = tuple[LiteralString, ...]
ONLY_READ: Rights = ("select",)
#: All that a right can be here.
ALL_ROWS: Rights = ("select", "insert", "update", "delete")
#: By schema and role, what may be done with each table, those that are made later as well. The owner may do everything.
#: Dagster's tables are in `public`: nobody else's work.
RIGHTS: Mapping[str, Mapping[str, Rights]] = {
    "b3": {APP.name: ONLY_READ},
    "ideas": {APP.name: ALL_ROWS, READER.name: ONLY_READ},
    "warehouse": {APP.name: ONLY_READ, READER.name: ONLY_READ},
    "public": {},
}
#: What the application may do with tables for which `RIGHTS` says something else. Of ideas it only reads what the database
#: itself writes, what was loaded, what is installed; in `b3` it writes what the API counts and keeps, and no phase or flag.
APART: Mapping[tuple[str, str], Rights] = {
    ("ideas", "idea_history"): ONLY_READ,
    ("ideas", "idea_tags"): ONLY_READ,
    ("ideas", "loads"): ONLY_READ,
    ("ideas", "alembic_version"): ONLY_READ,
    ("b3", "payload_mismatches"): ALL_ROWS,  # of many the oldest go, as of the callers
    ("b3", "legacy_callers"): ALL_ROWS,
    ("b3", "compared"): ("select", "insert", "update"),
    ("b3", "secrets"): ("select", "insert"),  # a token that is there stays: to encrypt it anew is the owner's
}
#: What of an administrator's DSN says where the server is, and how to know it. The rest is about him.
_OF_THE_SERVER = (
    "host",
    "hostaddr",
    "port",
    "sslmode",
    "sslrootcert",
    "sslcrl",
    "channel_binding",
    "target_session_attrs",
)
#: Statements that give the owner what others have made in our schemas; an extension's objects stay whose they are.
_TAKE_OVER = """
select format('alter %%s %%I.%%I owner to %%I', case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
    when 'S' then 'sequence' else 'table' end, n.nspname, c.relname, %(owner)s::text)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any(%(schemas)s) and c.relkind in ('r', 'p', 'v', 'm', 'S') and pg_get_userbyid(c.relowner) <> %(owner)s
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
        and (d.deptype = 'e' or c.relkind = 'S' and d.deptype in ('a', 'i')))
union all
select format('alter routine %%s owner to %%I', p.oid::regprocedure, %(owner)s::text)
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname = any(%(schemas)s) and p.prokind in ('f', 'p') and pg_get_userbyid(p.proowner) <> %(owner)s
    and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
order by 1
"""
#: Of tables that the user of the connection may grant: what a role may do with each. No such role: no row.
_STANDING: LiteralString = """
select n.nspname, c.relname,
    array(select p from unnest(%(rights)s::text[]) with ordinality r (p, place) where has_table_privilege(u.oid, c.oid, p) order by place)
from pg_class c join pg_namespace n on n.oid = c.relnamespace, pg_roles u
where u.rolname = %(role)s and n.nspname = any(%(schemas)s) and c.relname = any(%(tables)s) and c.relkind in ('r', 'p')
    and pg_has_role(c.relowner, 'usage')
"""


@dataclass
class _Work:
    """Statements as they are executed, or only shown; `shown` has all of them, without secrets."""

    db: psycopg.Connection
    only_show: bool
    shown: list[str] = field(default_factory=list)

    def do(self, statement: LiteralString, secret: str | None = None, **names: str) -> None:
        """Executes a statement: `{name}` is an identifier, `{secret}` a text that is not shown."""
        of_names = {name: sql.Identifier(value) for name, value in names.items()}
        self.shown.append(sql.SQL(statement).format(**of_names, secret=sql.SQL("'…'")).as_string())
        if not self.only_show:
            self.db.execute(sql.SQL(statement).format(**of_names, secret=sql.Literal(secret)))


def setup(admin: str, database: str, passwords: Mapping[str, str], *, only_show: bool = False) -> list[str]:
    """Makes roles, database, schemas and rights as the user of the DSN `admin`; gives the SQL for it, without secrets.

    `passwords` is by role; the server is sent only what it can check them with. With `only_show` it stays as it is; of
    a database that is not there yet only what is certain is shown. Raises SetupFailed and BadDsn.
    """
    with _administrator(admin) as db:
        _require_able(db)
        db.execute("select pg_advisory_lock(hashtext('b3 postgres setup'))")
        outside = _Work(db, only_show)
        _make_roles(outside, passwords)
        _make_database(outside, database)
        if only_show and not _found(db, "select 1 from pg_database where datname = %s", database):
            inside = _Work(db, only_show)
            _make_schemas(inside)
            _grant(inside)
        else:
            inside = _set_up_inside(admin, database, only_show=only_show)
    return outside.shown + inside.shown


def _set_up_inside(admin: str, database: str, *, only_show: bool) -> _Work:
    """Schemas and rights in a database that is there: all of it or nothing."""
    with _administrator(admin, database) as db, db.transaction():
        db.execute("select set_config('search_path', 'pg_catalog', true)")
        work = _Work(db, only_show)
        _make_schemas(work)
        for (statement,) in db.execute(_TAKE_OVER, {"owner": OWNER.name, "schemas": list(RIGHTS)}).fetchall():
            work.shown.append(statement)
            if not only_show:
                db.execute(statement.encode())
        _grant(work)
        _set_apart(work)
        return work


@contextmanager
def _administrator(dsn: str, database: str | None = None) -> Iterator[psycopg.Connection]:
    """A connection in autocommit, to the DSN's database or another one. Raises SetupFailed and BadDsn."""
    try:
        with psycopg.connect(checked(dsn, ADMIN), autocommit=True, connect_timeout=10, dbname=database) as db:
            yield db
    except psycopg.OperationalError as failed:
        raise SetupFailed(f"PostgreSQL does not answer the administrator: {reason(failed)}") from None
    except psycopg.Error as failed:
        raise SetupFailed(
            f"PostgreSQL refused to be set up: {reason(failed)}. Is this user an administrator?"
        ) from None


def _found(db: psycopg.Connection, query: LiteralString, value: str) -> bool:
    return db.execute(query, (value,)).fetchone() is not None


def _require_able(db: psycopg.Connection) -> None:
    if (version := db.info.server_version // 10_000) < OLDEST:
        raise SetupFailed(f"The server is PostgreSQL {version}; {OLDEST} or newer is needed.")
    able = "select 1 from pg_roles where rolname = %s and (rolsuper or rolcreaterole and rolcreatedb)"
    if not _found(db, able, db.info.user):
        raise SetupFailed(f"{db.info.user} may not make roles and databases: ask with a DSN of an administrator.")


def _make_roles(work: _Work, passwords: Mapping[str, str]) -> None:
    for role in ROLES:
        if not _found(work.db, "select 1 from pg_roles where rolname = %s", role.name):
            work.do("create role {role}", role=role.name)
        kept = None if work.only_show else _kept_of(work.db, role.name, passwords[role.name])
        work.do("alter role {role} login password {secret}", kept, role=role.name)
    if not _found(work.db, "select 1 from pg_roles where rolname = %s and rolsuper", work.db.info.user):
        work.do("grant {owner} to {us}", owner=OWNER.name, us=work.db.info.user)  # to act for it, as superusers may


def _kept_of(db: psycopg.Connection, role: str, password: str) -> str:
    """What the server keeps of a password, made here: the password itself would stand in its log."""
    return db.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def _make_database(work: _Work, database: str) -> None:
    if not _found(work.db, "select 1 from pg_database where datname = %s", database):
        create: LiteralString = "create database {database} owner {owner} template template0 encoding 'UTF8'"
        work.do(create, database=database, owner=OWNER.name)
    work.do("alter database {database} owner to {owner}", database=database, owner=OWNER.name)
    work.do("alter database {database} set jit = off", database=database)  # as in `connections`, for everybody else
    work.do("revoke all on database {database} from public", database=database)
    work.do("grant connect, temporary on database {database} to {app}", database=database, app=APP.name)
    work.do("grant connect on database {database} to {reader}", database=database, reader=READER.name)


def _make_schemas(work: _Work) -> None:
    for schema in RIGHTS:
        if schema != "public":
            work.do("create schema if not exists {schema} authorization {owner}", schema=schema, owner=OWNER.name)
            work.do("alter schema {schema} owner to {owner}", schema=schema, owner=OWNER.name)
    work.do("revoke create on schema public from public")
    work.do("grant usage, create on schema public to {owner}", owner=OWNER.name)


def _grant(work: _Work) -> None:
    """What `RIGHTS` says, and nothing else, for tables that are there and for those that the owner makes later."""
    for schema, by_role in RIGHTS.items():
        for role in (APP.name, READER.name):
            names = {"schema": schema, "role": role}
            later: LiteralString = "alter default privileges for role {owner} in schema {schema} "
            work.do("revoke all on schema {schema} from {role}", **names)
            for things in _TABLES_AND_SEQUENCES:
                work.do("revoke all on all " + things + " in schema {schema} from {role}", **names)
                work.do(later + "revoke all on " + things + " from {role}", owner=OWNER.name, **names)
            if rights := by_role.get(role):
                work.do("grant usage on schema {schema} to {role}", **names)
                for things, given in _given(rights):
                    work.do("grant " + given + " on all " + things + " in schema {schema} to {role}", **names)
                    work.do(later + "grant " + given + " on " + things + " to {role}", owner=OWNER.name, **names)


_TABLES_AND_SEQUENCES: tuple[LiteralString, ...] = ("tables", "sequences")


def _given(rights: Rights) -> Iterator[tuple[LiteralString, LiteralString]]:
    """Rights on tables as SQL has them, and those on the sequences of the tables' numbers for who adds rows."""
    yield "tables", ", ".join(rights)
    if "insert" in rights:
        yield "sequences", "usage, select, update"


def rights_on(role: str, schema: str, table: str) -> Rights:
    """What a role may do with a table of a schema of `RIGHTS`."""
    usual = RIGHTS[schema].get(role, ())
    return APART.get((schema, table), usual) if role == APP.name else usual


def _set_apart(work: _Work) -> None:
    for schema, table in APART:
        if _found(work.db, "select 1 where to_regclass(%s) is not null", f"{schema}.{table}"):
            _give(work, schema, table)


def _give(work: _Work, schema: str, table: str) -> None:
    names = {"schema": schema, "table": table, "app": APP.name}
    work.do("revoke all on {schema}.{table} from {app}", **names)
    work.do("grant " + ", ".join(APART[schema, table]) + " on {schema}.{table} to {app}", **names)


def set_apart(db: psycopg.Connection) -> None:
    """For the owner who has just made tables: with some the application may do less, or more. No roles: nothing to do."""
    schemas, tables = (list(names) for names in zip(*APART, strict=True))
    asked = {"role": APP.name, "rights": list(ALL_ROWS), "schemas": schemas, "tables": tables}
    for schema, table, has in db.execute(_STANDING, asked).fetchall():
        if tuple(has) != APART.get((schema, table), tuple(has)):
            _give(_Work(db, only_show=False), schema, table)


def place_of(admin: str) -> str:
    """Where our database is on an administrator's server: his DSN without himself. Raises BadDsn."""
    parts = urlsplit(checked(admin, ADMIN))
    kept = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name in _OF_THE_SERVER], safe="/")
    return f"postgresql://{parts.netloc.rpartition('@')[2]}/{DATABASE}{'?' if kept else ''}{kept}"


def dsn_of(role: Role, password: str, place: str) -> str:
    """The DSN of a role, for a place that `place_of` gives, or anybody else in the same form."""
    _, _, rest = place.partition("://")
    return f"postgresql://{role.name}:{quote(password, safe='')}@{rest}"
