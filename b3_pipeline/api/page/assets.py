"""The page's static files, compressed once: our own, and of Bokeh's wheel the one script that the charts need."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import bokeh
from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.problems import Problem
from b3_pipeline.api.v1.answers import known

OWN = Path(__file__).parent / "static"
#: By the name in its address; nothing else of the two folders is given to anybody.
FILES: Mapping[str, Path] = {
    "page/page.css": OWN / "page.css",
    "page/page.js": OWN / "page.js",
    "page/ideas.js": OWN / "ideas.js",
    "page/icon.svg": OWN / "icon.svg",
    "bokeh/bokeh.min.js": Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js",
}
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
#: An address names its content, so that a browser need not ask again.
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """A static file as it is sent."""

    raw: bytes
    packed: bytes
    media_type: str
    etag: str


@cache
def asset(name: str) -> Asset:
    """A file by its name. Raises KeyError where there is none."""
    raw = FILES[name].read_bytes()
    etag = f'"{hashlib.sha256(raw).hexdigest()[:16]}"'
    return Asset(raw, gzip.compress(raw, 9, mtime=0), f"{_TYPES[FILES[name].suffix]}; charset=utf-8", etag)


@cache
def address(name: str) -> str:
    """Where a page finds a file: another address when it has changed."""
    mark = version("bokeh") if name.startswith("bokeh/") else asset(name).etag.strip('"')
    return f"/static/{name}?v={mark}"


async def answer(request: Request) -> Response:
    """A static file, compressed for those who take it so."""
    name = str(request.path_params["name"])
    if name not in FILES:
        raise Problem(404, "There is no such file.")
    found = await asyncio.to_thread(asset, name)
    headers = {"ETag": found.etag, "Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
    if known(request.headers.get("if-none-match"), found.etag):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=found.media_type)
    return Response(found.raw, headers=headers, media_type=found.media_type)
