"""The views and functions: what was known when, signals with what was known at their moment, and each day in short."""

from __future__ import annotations

from b3_pipeline.postgres.migrating import apply

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    apply(__file__)


def downgrade() -> None:
    apply(__file__, ".down.sql")
