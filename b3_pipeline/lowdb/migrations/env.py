"""What Alembic runs: the versions, in the one transaction of the connection that `postgres.migrating` gives it."""

from __future__ import annotations

from alembic import context

from b3_pipeline.lowdb.model import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
