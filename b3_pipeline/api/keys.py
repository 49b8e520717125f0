"""Who may: a key for whatever changes something, and for reading where one is set; and how often one may ask."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from b3_pipeline.api.around import Rate
from b3_pipeline.api.problems import Problem
from b3_pipeline.credentials import password
from b3_pipeline.settings import Settings

_READING = {"GET", "HEAD", "OPTIONS"}
#: Always open: whether the service lives says nothing of the data, and the page's own files say nothing at all.
_OPEN = ("/api/v1/health", "/static/", "/favicon.ico")
#: Shared between all who ask, and so no question to the database: they may be asked as often as one likes.
_SHARED = ("/api/v1/overview", "/api/v1/health", "/page/", "/static/")
_CHALLENGE = 'Basic realm="b3_pipeline", charset="UTF-8"'


@dataclass(frozen=True)
class Keys:
    """The keys of a home: `change` for what changes anything, `read` for reading (None: anybody may)."""

    change: str = field(repr=False)
    read: str | None = field(repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Keys:
        """Those of the settings; a key for changes is made in `secrets/api_key` where none is set. Raises UnsafeSecret."""
        change, read = settings.api_key, settings.api_read_key
        made = password(settings.home / "secrets", "api_key") if change is None else change.get_secret_value()
        return cls(made, None if read is None else read.get_secret_value())

    def require(self, method: str, given: str | None) -> None:
        """Raises Problem (401, 403) unless who shows this key may do this."""
        reading = method in _READING
        if reading and self.read is None:
            return
        if given is None:
            what = "reading" if reading else "changing anything"
            raise Problem(401, f"A key is needed for {what}: X-API-Key, or Authorization: Bearer.", _challenge())
        allowed = [self.change] if self.read is None or not reading else [self.change, self.read]
        if not any([hmac.compare_digest(given.encode(), key.encode()) for key in allowed]):  # noqa: C419 (each is compared, however the first turns out)
            raise Problem(401 if reading else 403, "This key does not allow it.", _challenge() if reading else {})


def _challenge() -> dict[str, str]:
    return {"www-authenticate": _CHALLENGE}


def shown_key(scope: Scope) -> str | None:
    """The key that a request shows: X-API-Key, a bearer token, or the password of a browser's log-in."""
    headers = dict(scope["headers"])
    if b"x-api-key" in headers:
        return headers[b"x-api-key"].decode("latin-1")
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and value:
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


class Guarded:
    """A layer: lets through who may, and not too often. The legacy routes lie outside it: they were open, and are shared."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self._keys, self._rate = app, Keys.of(settings), Rate(settings.api_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._require(scope)
            except Problem as problem:
                await problem.response(scope.get("b3.id"))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _require(self, scope: Scope) -> None:
        """Raises Problem. Whoever tries keys is as slow as whoever asks the database."""
        path = scope["path"]
        if scope["method"] not in _READING and dict(scope["headers"]).get(b"sec-fetch-site") == b"cross-site":
            raise Problem(403, "Another site's page may not change anything here.")
        shared = path.startswith(_SHARED) or path == "/"
        if not shared:
            self._take(scope)
        if path.startswith(_OPEN):
            return
        try:
            self._keys.require(scope["method"], shown_key(scope))
        except Problem:
            if shared:
                self._take(scope)
            raise

    def _take(self, scope: Scope) -> None:
        client = (scope.get("client") or ("?", 0))[0]
        if not self._rate.take(client):
            raise Problem(429, "Too many questions from this address; ask again in a second.", {"retry-after": "1"})
