"""Serves the API and the page of a home: `python -m b3_pipeline.api [--legacy]`; `b3 up` does it."""

from __future__ import annotations

import sys

from granian import Granian
from granian.constants import Interfaces, Loops
from granian.http import HTTP1Settings

from b3_pipeline.errors import B3Error
from b3_pipeline.ports import HOST, require_free
from b3_pipeline.settings import Settings

#: A client that is slower than this with its request's head is no client.
_HEAD_MS = 10_000
_LARGEST_HEAD = 64 << 10


def main(arguments: list[str]) -> None:
    """Serves until it is told to stop; `--legacy` serves the three legacy routes alone, on B3_LEGACY_PORT."""
    settings, legacy = Settings(), "--legacy" in arguments
    port = settings.legacy_port if legacy else settings.ports.page
    if port is None:
        raise B3Error("B3_LEGACY_PORT is not set: there is no second port to serve.")
    require_free({"legacy routes" if legacy else "page and API": port})
    Granian(
        "b3_pipeline.api.app:served_legacy" if legacy else "b3_pipeline.api.app:served",
        address=HOST,
        port=port,
        interface=Interfaces.ASGI,
        factory=True,
        loop=Loops.uvloop,
        workers=1,
        websockets=False,
        respawn_failed_workers=True,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=_HEAD_MS, max_buffer_size=_LARGEST_HEAD),
    ).serve()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except B3Error as error:
        sys.exit(str(error))
