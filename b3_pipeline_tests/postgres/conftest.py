"""Fixtures of the tests on PostgreSQL: a server as a desk has one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from b3_pipeline_tests.postgres.servers import OwnServer, own_server


@pytest.fixture(scope="session")
def own() -> Iterator[OwnServer]:
    """Debian's PostgreSQL with TLS: one for each pytest-xdist worker whose tests ask for it."""
    with own_server() as server:
        yield server
