"""The warehouse of a test: its schema gone at first."""

from __future__ import annotations

import pytest

from b3_pipeline_tests.warehouse.filled import empty


@pytest.fixture
def dsn(postgres: str) -> str:
    """A PostgreSQL without a warehouse."""
    empty(postgres)
    return postgres
