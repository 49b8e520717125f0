"""The collections as tables, the tags and the history of the ideas, and what was loaded of the LowDB files."""

from __future__ import annotations

from b3_pipeline.postgres.migrating import apply

revision = "0001"
down_revision = None


def upgrade() -> None:
    apply(__file__)


def downgrade() -> None:
    apply(__file__, ".down.sql")
