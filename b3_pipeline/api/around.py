"""What lies around every route: correlation id and log line, security headers, sizes, hosts, and how often one may ask."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from b3_pipeline.api.legacy import ROUTES
from b3_pipeline.api.logs import Lines, log, worth_a_line
from b3_pipeline.api.problems import DEFECT, problem
from b3_pipeline.ports import HOST
from b3_pipeline.settings import Settings

#: A request's body, its address with the query, and all its headers may be so long (bytes).
BODY_LIMIT, ADDRESS_LIMIT, HEADERS_LIMIT = 1 << 20, 8 << 10, 32 << 10
_TOO_LARGE = f"The body is larger than {BODY_LIMIT} bytes."
REQUEST_ID = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Bokeh sets styles of elements; nothing needs inline or evaluated scripts.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
#: FastAPI's own pages load their script from elsewhere and begin it inline: only these are ours, served from the wheel.
HEADERS: Mapping[str, str] = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

Counted = Callable[[str, str, int, float], None]


class Around:
    """The outermost layer. `counted` is told route, method, status and seconds of each request.

    `hosts` are the names under which the service may be asked for (None: any). A page of somebody else's whose name
    leads here (DNS rebinding) is refused by that, for it shows its own name. The legacy routes are everybody's.
    """

    def __init__(self, app: ASGIApp, counted: Counted, hosts: Collection[str] | None = None) -> None:
        self.app, self._counted, self._hosts = app, counted, hosts
        self._lines = Lines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, given = time.perf_counter(), dict(scope["headers"])
        scope["b3.id"] = name = _id(given.get(REQUEST_ID.encode()))
        status, started = 500, False

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message["headers"], *_RAW_HEADERS, (REQUEST_ID.encode(), name.encode())]
            await send(message)

        try:
            if refused := _too_long(scope) or self._elsewhere(scope, given.get(b"host")):
                await problem(*refused, instance=name)(scope, receive, answer)
            else:
                await self.app(scope, _bounded(receive), answer)
        except Exception:
            # neither the message nor the traceback goes out: either may quote what is secret
            log.exception("unexpected", extra={"facts": {"id": name}})
            if not started:
                await problem(500, DEFECT, instance=name)(scope, receive, answer)
        finally:
            seconds, method = time.perf_counter() - began, scope["method"]
            route = getattr(scope.get("route"), "path", None) or scope.get("b3.route") or "other"
            self._counted(route, method, status, seconds)
            if worth_a_line(method, status, seconds):
                self._lines.write(_line(scope, name, route, status, seconds))

    def _elsewhere(self, scope: Scope, host: bytes | None) -> tuple[int, str] | None:
        """The refusal of who means another host; no browser leaves out whom it means."""
        if self._hosts is None or host is None or scope["path"] in ROUTES or host_name(host) in self._hosts:
            return None
        return 421, "This service does not answer under this name: B3_ALLOWED_HOSTS says under which it does."


def own_hosts(settings: Settings) -> frozenset[str]:
    """The names under which a home's service may be asked for."""
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    named = (public, *(host_name(host.encode()) for host in settings.allowed_hosts))
    return frozenset({HOST, "localhost", "::1", *filter(None, named)})


def host_name(given: bytes) -> str | None:
    """The name in a Host header (without its port, in small letters); None where there is none."""
    try:
        return urlsplit(f"//{given.decode('latin-1')}").hostname
    except ValueError:
        return None


def _id(given: bytes | None) -> str:
    """The caller's own id, where it is one; else a new one."""
    text = (given or b"").decode("latin-1")
    return text if _ID.fullmatch(text) else secrets.token_hex(8)


def _too_long(scope: Scope) -> tuple[int, str] | None:
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > ADDRESS_LIMIT:
        return 414, f"The address is longer than {ADDRESS_LIMIT} bytes."
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_LIMIT:
        return 400, f"The headers are longer than {HEADERS_LIMIT} bytes."
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > BODY_LIMIT:
        return 413, _TOO_LARGE
    return None


def _bounded(receive: Receive) -> Receive:
    """Raises HTTPException (413) when more comes than was announced, or nothing was; routes pass it on as it is."""
    received = 0

    async def take() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > BODY_LIMIT:
                raise HTTPException(413, _TOO_LARGE)
        return message

    return take


def _line(scope: Scope, name: str, route: str, status: int, seconds: float) -> dict[str, Any]:
    client = scope.get("client") or ("", 0)
    facts = {"id": name, "client": client[0], "method": scope["method"], "path": scope["path"], "route": route}
    return {**facts, "status": status, "ms": round(seconds * 1e3, 2)}


class Rate:
    """How often one client may ask what is not shared with others: per second, by address."""

    def __init__(self, per_second: int) -> None:
        self._allowed: RateLimitItem = RateLimitItemPerSecond(per_second)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def take(self, client: str) -> bool:
        """Counts a question; False when it is one too many."""
        return self._limiter.hit(self._allowed, client)
