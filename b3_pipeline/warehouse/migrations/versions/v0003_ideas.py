"""The desk's ideas beside signals and settlements. The schema `ideas` may come before this one, after it, or never."""

from __future__ import annotations

from b3_pipeline.postgres.migrating import apply

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    apply(__file__)


def downgrade() -> None:
    apply(__file__, ".down.sql")
