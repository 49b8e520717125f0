"""What the tests of this folder take for the embedded server: Debian's with TLS, set up as `b3 postgres setup` does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from b3_pipeline.postgres.roles import OWNER
from b3_pipeline_tests.postgres.servers import OwnServer


@pytest.fixture(scope="session")
def postgres(own: OwnServer) -> Iterator[str]:
    """The owner's DSN of an empty database."""
    with own.database("suite") as name:
        yield own.dsn(OWNER, name)
