"""What lies around every route: correlation id and log line, security headers, sizes, and how often one may ask."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from b3_pipeline.api.problems import problem

log = logging.getLogger("b3.api")
#: A request's body, its address with the query, and all its headers may be so long (bytes).
BODY_LIMIT, ADDRESS_LIMIT, HEADERS_LIMIT = 1 << 20, 8 << 10, 32 << 10
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
    """The outermost layer. `counted` is told route, method, status and seconds of each request."""

    def __init__(self, app: ASGIApp, counted: Counted) -> None:
        self.app, self._counted = app, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, given = time.perf_counter(), dict(scope["headers"])
        scope["b3.id"] = name = _id(given.get(REQUEST_ID.encode()))
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_RAW_HEADERS, (REQUEST_ID.encode(), name.encode())]
            await send(message)

        try:
            if too_long := _too_long(scope):
                await problem(*too_long, instance=name)(scope, receive, answer)
            else:
                await self.app(scope, _bounded(receive), answer)
        except _TooLarge:
            await problem(413, f"The body is larger than {BODY_LIMIT} bytes.", instance=name)(scope, receive, answer)
        except Exception:
            # neither the message nor the traceback goes out: either may quote what is secret
            log.exception("unexpected", extra={"id": name})
            if status == 500:
                await problem(500, "This is a defect; the log has it under this id.", instance=name)(
                    scope, receive, answer
                )
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None) or scope.get("b3.route") or "other"
            self._counted(route, scope["method"], status, seconds)
            if log.isEnabledFor(logging.INFO):
                log.info("request", extra=_line(scope, name, route, status, seconds))


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
        return 413, f"The body is larger than {BODY_LIMIT} bytes."
    return None


class _TooLarge(Exception):
    pass


def _bounded(receive: Receive) -> Receive:
    received = 0

    async def take() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > BODY_LIMIT:
                raise _TooLarge
        return message

    return take


def _line(scope: Scope, name: str, route: str, status: int, seconds: float) -> dict[str, Any]:
    client = scope.get("client") or ("", 0)
    facts = {"id": name, "client": client[0], "method": scope["method"], "path": scope["path"], "route": route}
    return {"facts": {**facts, "status": status, "ms": round(seconds * 1e3, 2)}}


class JsonLines(logging.Formatter):
    """A log line is one JSON object; queries are not in it, for they may hold what was sent by mistake."""

    def format(self, record: logging.LogRecord) -> str:
        said = {"at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname}
        said |= {"message": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return orjson.dumps(said).decode()


class Rate:
    """How often one client may ask what is not shared with others: per second, by address."""

    def __init__(self, per_second: int) -> None:
        self._allowed: RateLimitItem = RateLimitItemPerSecond(per_second)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def take(self, client: str) -> bool:
        """Counts a question; False when it is one too many."""
        return self._limiter.hit(self._allowed, client)
