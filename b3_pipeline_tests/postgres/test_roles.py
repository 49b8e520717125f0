"""Three roles on a server of one's own, over TLS: each may do its work and nothing else, however often they are made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import errors

from b3_pipeline.backup.dumping import counts, dump, restore
from b3_pipeline.dagster_server import storage_url
from b3_pipeline.lowdb import schema as ideas
from b3_pipeline.lowdb.model import IDEAS
from b3_pipeline.lowdb.store import Asked
from b3_pipeline.lowdb.tables import Tables
from b3_pipeline.postgres import callers, compared, mismatches
from b3_pipeline.postgres.examining import examined
from b3_pipeline.postgres.flags import Flags, set_flag
from b3_pipeline.postgres.roles import APP, OWNER, READER, RIGHTS, ROLES, Role, SetupFailed, place_of, setup
from b3_pipeline.postgres.vault import open_vault
from b3_pipeline.warehouse import loading as warehouse
from b3_pipeline.warehouse.known import last_signals
from b3_pipeline_tests.postgres.servers import PASSWORDS, OwnServer, sign

NOW = datetime(2025, 10, 13, 12, tzinfo=UTC)
DESK = "desk"
KEY = "A" * 43
IDEA = {
    "title": "Ágio",
    "description": "",
    "category": "dashboard",
    "priority": "low",
    "status": "new",
    "tags": ["dol"],
    "createdAt": "2025-09-21T08:54:00.000Z",
}
#: All that a set-up decides: roles, database, owners, rights, and rights on what is made later.
_STATE: tuple[LiteralString, ...] = (
    "select rolname, rolsuper, rolcanlogin, rolcreatedb, rolcreaterole from pg_roles where rolname like 'b3%' order by 1",
    "select datname, pg_get_userbyid(datdba), array(select a::text from unnest(datacl) a order by 1) from pg_database order by 1",
    "select nspname, pg_get_userbyid(nspowner), array(select a::text from unnest(nspacl) a order by 1) from pg_namespace where nspname !~ '^pg_' order by 1",
    "select oid::regclass::text, pg_get_userbyid(relowner), array(select a::text from unnest(coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::\"char\", relowner))) a order by 1) from pg_class where oid > 16384 order by 1",
    "select defaclobjtype, defaclnamespace::regnamespace::text, array(select a::text from unnest(defaclacl) a order by 1) from pg_default_acl order by 1, 2",
)


@pytest.fixture(scope="module")
def desk(own: OwnServer) -> Iterator[OwnServer]:
    """The server, with a database that the owner has brought to this release's versions."""
    from dagster_postgres import DagsterPostgresStorage

    with own.database(DESK):
        dsn = own.dsn(OWNER, DESK)
        warehouse.upgrade(dsn)
        ideas.upgrade(dsn)
        set_flag(dsn, "shadow_files", "off", why="a test", who="ana", at=NOW)
        compared.add(dsn, "ideas", NOW, compared.Counts(equal=1))
        with open_vault(dsn, lambda: [KEY]):
            DagsterPostgresStorage(storage_url(dsn), should_autocreate_tables=True)
        yield own


def connected(server: OwnServer, role: Role, database: str = DESK) -> psycopg.Connection:
    return psycopg.connect(server.dsn(role, database), autocommit=True)


def state(server: OwnServer) -> list[Any]:
    with psycopg.connect(server.admin, dbname=DESK) as db:
        return [db.execute(query).fetchall() for query in _STATE]


def wrong(server: OwnServer) -> list[str]:
    return [finding.found for role in ROLES for finding in examined(role, server.dsn(role, DESK)) if not finding.good]


# Set-up


def test_setting_it_up_again_changes_nothing(desk: OwnServer) -> None:
    before = state(desk)
    statements = setup(desk.admin, DESK, PASSWORDS)
    assert state(desk) == before
    assert not [s for s in statements if s.startswith(("create role", "create database"))]


def test_what_would_be_done_is_shown_without_a_secret_and_not_done(desk: OwnServer) -> None:
    before = state(desk)
    shown = "\n".join(setup(desk.admin, "another", {}, only_show=True))
    assert state(desk) == before
    assert 'create database "another" owner "b3_owner" template template0 encoding \'UTF8\'' in shown
    assert "alter role \"b3_app\" login password '…'" in shown
    assert 'grant select on all tables in schema "ideas" to "b3_reader"' in shown


def test_what_is_shown_is_what_is_done(desk: OwnServer) -> None:
    assert setup(desk.admin, DESK, {}, only_show=True) == setup(desk.admin, DESK, PASSWORDS)


def test_the_server_is_never_told_a_password(desk: OwnServer) -> None:
    log = desk.log.read_text("utf-8")
    assert "SCRAM-SHA-256$" in log
    assert not [password for password in PASSWORDS.values() if password.replace("'", "''") in log or password in log]


def test_rights_that_somebody_gave_go_and_tables_of_others_become_the_owners(desk: OwnServer) -> None:
    with psycopg.connect(desk.admin, dbname=DESK, autocommit=True) as db:
        db.execute("grant update on ideas.idea_history to b3_app")
        db.execute("grant create on schema warehouse to b3_reader")
        assert wrong(desk) == ["may update ideas.idea_history", "may make tables in warehouse"]
        db.execute("create table b3.of_another (id serial primary key)")
        db.execute("create function b3.ours() returns int language sql as 'select 1'")
        assert "tables of b3 are postgres's" in wrong(desk)
    statements = setup(desk.admin, DESK, PASSWORDS)
    assert "alter table b3.of_another owner to b3_owner" in statements
    assert "alter routine b3.ours() owner to b3_owner" in statements
    assert wrong(desk) == []
    with connected(desk, OWNER) as db:
        db.execute("drop table b3.of_another")
        db.execute("drop function b3.ours()")


def test_only_an_administrator_sets_up(desk: OwnServer) -> None:
    for role in ROLES:
        with pytest.raises(SetupFailed, match=f"{role.name} may not make roles"):
            setup(desk.dsn(role, DESK), DESK, PASSWORDS)
    with pytest.raises(SetupFailed, match="does not answer the administrator") as failed:
        setup(desk.admin.replace(":admin@", ":hunter2@"), DESK, PASSWORDS)
    assert "hunter2" not in str(failed.value)


def test_the_services_find_the_database_where_the_administrator_found_the_server() -> None:
    admin = "postgresql://root:pw@db.desk:5433/postgres?sslmode=verify-full&sslrootcert=/a/ca&sslkey=/a/key&user=x"
    assert place_of(admin) == "postgresql://db.desk:5433/b3?sslmode=verify-full&sslrootcert=/a/ca"
    assert place_of("postgresql://root@/postgres?host=/run/pg") == "postgresql:///b3?host=/run/pg"


# TLS


def test_who_does_not_speak_tls_is_not_let_in(desk: OwnServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(desk.dsn(APP, DESK).replace("verify-full", "disable"))


def test_a_server_whose_certificate_nobody_known_has_signed_is_not_talked_to(desk: OwnServer, tmp_path: Path) -> None:
    another = desk.dsn(APP, DESK).replace(str(desk.authority), str(sign(tmp_path)))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(another)


def test_a_server_by_another_name_than_its_certificates_is_not_talked_to(desk: OwnServer) -> None:
    by_address = desk.dsn(APP, DESK).replace("@localhost", "@127.0.0.1")
    with pytest.raises(psycopg.OperationalError, match=r'does not match host name "127\.0\.0\.1"'):
        psycopg.connect(by_address)
    with psycopg.connect(by_address.replace("verify-full", "verify-ca")) as db:
        assert db.pgconn.ssl_in_use


# What each role may do


def test_each_role_is_found_to_be_as_it_should_over_tls(desk: OwnServer) -> None:
    found = [finding for role in ROLES for finding in examined(role, desk.dsn(role, DESK))]
    assert [finding.found for finding in found if not finding.good] == []
    first = found[0]
    assert first.name == "PostgreSQL as b3_owner"
    assert "TLSv1.3, certificate and name verified" in first.found
    assert {finding.name for finding in found} >= {"PostgreSQL's owners", "PostgreSQL's encoding", "b3_reader's rights"}


FORBIDDEN: list[tuple[Role, LiteralString]] = [
    (APP, "create table b3.more (n int)"),
    (APP, "create table ideas.more (n int)"),
    (APP, "create table public.more (n int)"),
    (APP, "create schema more"),
    (APP, "drop table ideas.ideas"),
    (APP, "alter table ideas.ideas add more int"),
    (APP, "truncate ideas.ideas"),
    (APP, "update ideas.idea_history set who = 'somebody'"),
    (APP, "insert into ideas.idea_history (idea_id, who, action) values (1, 'somebody', 'insert')"),
    (APP, "delete from ideas.idea_tags"),
    (APP, "delete from ideas.idea_history"),
    (APP, "delete from ideas.loads"),
    (APP, "update ideas.alembic_version set version_num = '9'"),
    (APP, "delete from warehouse.loads"),
    (APP, "alter table ideas.ideas disable trigger all"),
    (
        APP,
        "insert into b3.flags (at, domain, name, value, who, why) values (now(), 'ideas', 'phase', 'active', 'x', 'y')",
    ),
    (APP, "update b3.flags set value = 'off'"),
    (APP, "delete from b3.flags"),
    (APP, "delete from b3.compared"),
    (APP, "update b3.secrets set secret = ''"),
    (APP, "delete from b3.secrets"),
    (APP, "select * from public.runs"),
    (APP, "delete from public.event_logs"),
    (APP, "create role more"),
    (READER, "insert into ideas.documentation_links (idea_id, url, title) values (1, 'x', 'y')"),
    (READER, "delete from ideas.ideas"),
    (READER, "delete from warehouse.loads"),
    (READER, "select * from b3.flags"),
    (READER, "create table warehouse.more (n int)"),
    (READER, "create table public.more (n int)"),
    (READER, "create temporary table more (n int)"),
    (OWNER, "create role more"),
    (OWNER, "create database more"),
    (OWNER, "copy ideas.ideas to '/etc/more'"),
]


@pytest.mark.parametrize(("role", "statement"), FORBIDDEN)
def test_what_is_not_a_roles_work_is_forbidden(desk: OwnServer, role: Role, statement: LiteralString) -> None:
    with connected(desk, role) as db, pytest.raises(errors.InsufficientPrivilege):
        db.execute(statement)


def test_another_database_of_the_server_is_not_entered(desk: OwnServer) -> None:
    with desk.database("other"), psycopg.connect(desk.admin, autocommit=True) as db:
        db.execute("create role somebody login password 'x'")
        try:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(desk.place("other").replace("//", "//somebody:x@", 1))
        finally:
            db.execute("drop role somebody")


def test_a_table_that_comes_later_is_covered_at_once(desk: OwnServer) -> None:
    with connected(desk, OWNER) as db:
        db.execute("create table ideas.later (id serial primary key, n int)")
        try:
            with connected(desk, APP) as app:
                app.execute("insert into ideas.later (n) values (1)")
            with connected(desk, READER) as reader:
                assert reader.execute("select id, n from ideas.later").fetchall() == [(1, 1)]
        finally:
            db.execute("drop table ideas.later")


def test_the_application_keeps_ideas_and_their_history_and_the_reader_reads_both(desk: OwnServer) -> None:
    async def edit() -> str:
        async with Tables(desk.dsn(APP, DESK), lambda: NOW) as store:
            made = await store.create(IDEAS, IDEA, "ana")
            id = made.record["id"]
            changed = await store.replace(IDEAS, int(id), {**made.record, "status": "review"}, made.etag, "rui")
            found, count = await store.page(IDEAS, Asked(search="agio"))
            assert (count, found) == (1, [changed])
            assert [change.who for change in await store.history(int(id), 10)] == ["rui", "ana"]
            return id

    id = asyncio.run(edit())
    with connected(desk, READER) as db:
        assert db.execute("select title, status from ideas.ideas where id = %s", (id,)).fetchall() == [
            ("Ágio", "review")
        ]
        assert db.execute("select count(*) from ideas.idea_history where idea_id = %s", (id,)).fetchall() == [(2,)]


def test_what_the_api_shares_in_postgresql_works_as_the_application(desk: OwnServer, tmp_path: Path) -> None:
    owner, app, reader = (desk.dsn(role, DESK) for role in ROLES)
    assert not Flags(tmp_path, app).current().stale
    caller = callers.Caller(NOW.date(), "127.0.0.1", "old script", "/gamma", 3, NOW, NOW)
    assert callers.recent(owner, NOW.date()) == []
    callers.add(app, [caller])
    assert callers.recent(app, NOW.date()) == [caller]
    with open_vault(app, lambda: [KEY]) as vault:
        vault.keep("bot", "token")
        vault.keep("bot", "another")
        assert vault.reveal("bot") == "token"
    compared.add(app, "ideas", NOW, compared.Counts(equal=2))
    assert compared.of_phase(app, "ideas", NOW).equal == 3
    assert mismatches.counted(owner) == (0, 0)
    assert mismatches.record(app, mismatches.Found(NOW, "gamma", b"1", b"2", ()))
    [found] = mismatches.latest(app)
    mismatches.mark_seen(app, found.id, "ana", "a test", NOW)
    assert mismatches.counted(app) == (0, 1)
    assert last_signals(reader, NOW, 5) == []


def test_dagsters_storage_is_the_owners(desk: OwnServer) -> None:
    from dagster_postgres import DagsterPostgresStorage

    runs = DagsterPostgresStorage(storage_url(desk.dsn(OWNER, DESK)), should_autocreate_tables=False).run_storage
    runs.set_cursor_values({"a": "one"})
    assert runs.get_cursor_values({"a"}) == {"a": "one"}


def test_a_table_of_the_pipeline_is_the_applications_to_read_and_one_it_counts_in_to_write(desk: OwnServer) -> None:
    with connected(desk, OWNER) as db:
        db.execute("drop table b3.compared")
        db.execute("create table b3.later (n int)")
    try:
        compared.add(desk.dsn(OWNER, DESK), "ideas", NOW, compared.Counts())
        assert wrong(desk) == []
        with connected(desk, APP) as db:
            db.execute("update b3.compared set equal = 1")
            assert db.execute("select * from b3.later").fetchall() == []
            with pytest.raises(errors.InsufficientPrivilege):
                db.execute("insert into b3.later values (1)")
    finally:
        with connected(desk, OWNER) as db:
            db.execute("drop table b3.later")


def test_a_backup_goes_over_tls_and_comes_back_with_everybodys_rights(desk: OwnServer, tmp_path: Path) -> None:
    with connected(desk, OWNER) as db:
        db.execute("insert into ideas.documentation_systems values (7, 'QuestDB', 'QDB', 8812, 'on', '', '', '{}')")
    rows, version = dump(desk.dsn(OWNER, DESK), tmp_path / "postgres.dump")
    assert version.startswith(str(desk_version(desk)))
    with desk.database("back"):
        restore(desk.dsn(OWNER, "back"), tmp_path / "postgres.dump")
        assert counts(desk.dsn(OWNER, "back")) == rows
        assert rows["ideas.documentation_systems"] == 1
        with connected(desk, READER, "back") as db:
            assert db.execute("select name from ideas.documentation_systems").fetchall() == [("QuestDB",)]
        assert [f.found for role in ROLES for f in examined(role, desk.dsn(role, "back")) if not f.good] == []


def desk_version(server: OwnServer) -> int:
    with connected(server, READER) as db:
        return db.info.server_version // 10_000


def test_rights_name_only_schemas_that_are_set_up_and_every_role_has_some(desk: OwnServer) -> None:
    with connected(desk, READER) as db:
        there = {name for (name,) in db.execute("select nspname from pg_namespace")}
    assert set(RIGHTS) <= there
    assert {role for by_role in RIGHTS.values() for role in by_role} == {APP.name, READER.name}
