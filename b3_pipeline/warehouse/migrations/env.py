"""What Alembic runs: the versions, in the one transaction of the connection that `postgres.migrating` gives it."""

from __future__ import annotations

from alembic import context

from b3_pipeline.warehouse.model import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata(),
    version_table_schema=SCHEMA,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
