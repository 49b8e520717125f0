"""The tables that are loaded from the exports, what was loaded of them, and the dimensions of the views."""

from __future__ import annotations

from b3_pipeline.postgres.migrating import apply

revision = "0001"
down_revision = None


def upgrade() -> None:
    apply(__file__)


def downgrade() -> None:
    apply(__file__, ".down.sql")
