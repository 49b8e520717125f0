"""How a version applies its SQL: as it stands in the file, for Alembic's own ways take `:` and `%` for something else."""

from __future__ import annotations

from pathlib import Path

from alembic import op


def apply(module: str, ending: str = ".sql") -> None:
    """Runs the statements of the file beside a module (`__file__`), in the transaction of the migration."""
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None, "a migration has a connection"
    connection.execute(Path(module).with_suffix(ending).read_text("utf-8"))  # pyright: ignore[reportAttributeAccessIssue]
