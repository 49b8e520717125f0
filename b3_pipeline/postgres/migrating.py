"""Our schemas in PostgreSQL that have versions: brought to this release's by Alembic, all of it or nothing.

A schema's migrations are a folder as Alembic has it, with SQL beside each version. One process at a time: others wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg import sql

from b3_pipeline import migration_log
from b3_pipeline.errors import B3Error
from b3_pipeline.migration_log import Step
from b3_pipeline.postgres.connections import connected
from b3_pipeline.postgres.dsn import checked, reason
from b3_pipeline.postgres.roles import set_apart

if TYPE_CHECKING:
    import sqlalchemy as sa

_LOCK: LiteralString = "select pg_advisory_xact_lock(hashtext(%s), hashtext('schema'))"


@dataclass(frozen=True)
class Schema:
    """A schema by its name; `what` it is and what is in it (`content`), the folder of its `migrations`, its `error`.

    `way_back` says, for the migration log, how to be rid of it.
    """

    name: str
    what: str
    content: str
    migrations: Path
    error: type[B3Error]
    way_back: str

    @contextmanager
    def connected(self, dsn: str) -> Iterator[psycopg.Connection]:
        """A connection for who works on it, in autocommit; moments are aware UTC. Raises `error` and BadDsn."""
        with connected(dsn, error=self.error, what=self.content) as db:
            try:
                yield db
            except psycopg.OperationalError:
                raise
            except psycopg.Error as failed:
                told = f"PostgreSQL refused what {self.content} asked: {reason(failed)}."
                raise self.error(f"{told} May this user make and change schema {self.name}?") from None

    def head(self) -> str:
        """The version that this release knows."""
        from alembic.script import ScriptDirectory

        found = ScriptDirectory(str(self.migrations)).get_current_head()
        assert found is not None, "there are versions"
        return found

    def version(self, db: psycopg.Connection) -> str | None:
        """The version in the database; None where there is none."""
        if db.execute("select to_regclass(%s)", (f"{self.name}.alembic_version",)).fetchall() == [(None,)]:
            return None
        query = sql.SQL("select version_num from {}").format(sql.Identifier(self.name, "alembic_version"))
        found = db.execute(query).fetchone()
        return found[0] if found else None

    def migrate(self, dsn: str) -> None:
        """Brings it to this release's version. Raises `error`, also when it is of a newer release."""
        import sqlalchemy as sa
        from alembic.util import CommandError
        from sqlalchemy.exc import DBAPIError

        def connect() -> psycopg.Connection:
            return psycopg.connect(checked(dsn), connect_timeout=10)

        # the URL names no server: it is the connection that knows the password, and no error can show it
        engine = sa.create_engine("postgresql+psycopg://", creator=connect, poolclass=sa.NullPool)
        try:
            with engine.begin() as connection:
                self._run(connection)
        except DBAPIError as failed:
            told = reason(failed.orig) if isinstance(failed.orig, psycopg.Error) else type(failed.orig).__name__
            raise self.error(f"{self.what} was left as it is: {told}.") from None
        except psycopg.Error as failed:
            raise self.error(f"{self.what} was left as it is: {reason(failed)}.") from None
        except CommandError as failed:
            raise self.error(f"{self.what} is of a newer release, and was left as it is: {failed}.") from None

    def _run(self, connection: sa.Connection) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(self.migrations).replace("%", "%%"))
        connection.exec_driver_sql(_LOCK, (f"b3 {self.name}",))
        if connection.exec_driver_sql("select to_regnamespace(%s)", (self.name,)).scalar() is None:
            connection.exec_driver_sql(f"create schema {self.name}")  # a name of ours
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        db = connection.connection.dbapi_connection
        assert isinstance(db, psycopg.Connection), "it is `migrate` that connects"
        set_apart(db)

    def log(self, home: Path, clock: Callable[[], datetime], upgrade: Callable[[], tuple[str | None, str]]) -> None:
        """Runs an upgrade, which gives the version before and after, with a migration log when it changed something.

        Raises OSError, and what the upgrade raises.
        """
        at, started = clock(), time.monotonic()
        before, after = upgrade()
        if before != after:
            title = f"{self.what}: version {before or 'none'} to {after}"
            step = Step(self.name, title, at, "done", time.monotonic() - started, self.way_back)
            migration_log.write(home, step)


def apply(module: str, ending: str = ".sql") -> None:
    """For a version: runs the statements of the file beside its module (`__file__`), in the migration's transaction.

    As they stand there, for Alembic's own ways take `:` and `%` for something else.
    """
    from alembic import op

    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None, "a migration has a connection"
    connection.execute(Path(module).with_suffix(ending).read_text("utf-8"))  # pyright: ignore[reportAttributeAccessIssue]
