"""The schema of the ideas: made, taken away, and what the database itself holds to."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from b3_pipeline import migration_log
from b3_pipeline.lowdb.schema import IDEAS_SCHEMA, IdeasError, prepare, upgrade
from b3_pipeline_tests.lowdb.recorded import NOW, asked, gone

_INSERT = (
    "insert into ideas.ideas (id, title, description, category, priority, status, tags, created_at) "
    "values (%s, 'Painel', 'opções', 'dashboard', 'low', 'new', %s, now())"
)
_LOG = "select idea_id, action, who, before->>'title', after->>'title' from ideas.idea_history order by id"


@pytest.fixture
def dsn(postgres: str) -> str:
    gone(postgres)
    return postgres


def test_the_schema_is_made_once_and_logged(dsn: str, tmp_path: Path) -> None:
    for _ in range(2):
        prepare(dsn, tmp_path, lambda: NOW)
    [step] = migration_log.steps(tmp_path)
    assert step["title"] == f"The schema of the ideas: version none to {IDEAS_SCHEMA.head()}"
    assert upgrade(dsn) == (IDEAS_SCHEMA.head(), IDEAS_SCHEMA.head())


def test_a_downgrade_leaves_nothing_and_an_upgrade_follows(dsn: str) -> None:
    from alembic import command
    from alembic.config import Config

    upgrade(dsn)
    config = Config()
    config.set_main_option("script_location", str(IDEAS_SCHEMA.migrations))
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    left = "select relname from pg_class where relnamespace = 'ideas'::regnamespace and relkind in ('r', 'v', 'S')"
    assert asked(dsn, left) == [("alembic_version",)]
    assert asked(dsn, "select proname from pg_proc where pronamespace = 'ideas'::regnamespace") == []
    assert upgrade(dsn) == (None, IDEAS_SCHEMA.head())


def test_a_schema_of_a_newer_release_is_left_as_it_is(dsn: str) -> None:
    upgrade(dsn)
    asked(dsn, "update ideas.alembic_version set version_num = '9999' returning 1")
    with pytest.raises(IdeasError, match="newer release"):
        upgrade(dsn)


def test_whoever_changes_an_idea_is_in_the_history_and_its_tags_follow(dsn: str) -> None:
    upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(_INSERT, (1, ["a", "b"]))
        with db.transaction():
            db.execute("set local b3.who = 'Ana'")
            db.execute("update ideas.ideas set title = 'Outro', tags = '{c}'")
            db.execute("update ideas.ideas set title = title")  # nothing is other
        assert db.execute("select tag from ideas.idea_tags").fetchall() == [("c",)]
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            db.execute("update ideas.ideas set id = 2")
        db.execute("update ideas.ideas set tags = '{}'")
        db.execute("update ideas.ideas set id = 2")
        db.execute("delete from ideas.ideas")
        db.execute(_INSERT, (3, []))
        db.execute("truncate ideas.ideas cascade")
        me = db.execute("select session_user::text").fetchall()[0][0]
        assert db.execute(_LOG).fetchall() == [
            (1, "insert", me, None, "Painel"),
            (1, "update", "Ana", "Painel", "Outro"),
            (1, "update", me, "Outro", "Outro"),
            (2, "insert", me, None, "Outro"),
            (1, "delete", me, "Outro", None),
            (2, "delete", me, "Outro", None),
            (3, "insert", me, None, "Painel"),
            (3, "delete", me, "Painel", None),
        ]


@pytest.mark.parametrize(
    "change",
    ["title = ' '", "category = 'x'", "priority = 'x'", "status = 'x'", "tags = array[null]::text[]", "id = 0"],
)
@pytest.mark.parametrize("table", ["ideas", "documentation_ideas"])
def test_what_may_not_be_is_refused_by_the_database(dsn: str, table: str, change: str) -> None:
    upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(_INSERT.replace("ideas.ideas", f"ideas.{table}").encode(), (1, ["a"]))
        with pytest.raises(psycopg.errors.CheckViolation):
            db.execute(f"update ideas.{table} set {change}".encode())
