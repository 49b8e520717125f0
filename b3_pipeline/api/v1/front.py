"""The overview's short way: a plain ASGI layer in front of the application, for the one document that pages ask for all day.

It answers exactly what the route answers; anything out of the ordinary is left to the route.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from b3_pipeline.api.service import Service
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.v1.overview import response

PATH = "/api/v1/overview"


class OverviewFront:
    """Answers `GET /api/v1/overview` without parameters; everything else goes to `app`.

    `service` gives the service of the running application. What guards reading (keys, rates) lies around this layer;
    compression may lie around it or behind it, for what it sends in gzip is marked so.
    """

    def __init__(self, app: ASGIApp, service: Callable[[], Service]) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET" or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        scope["b3.route"] = PATH
        given = dict(scope["headers"])
        tag = given.get(b"if-none-match")
        try:
            answer = await response(
                self._service(),
                None if tag is None else tag.decode("latin-1"),
                given.get(b"accept-encoding", b"").decode("latin-1"),
            )
        except StoreAway:  # the route says so in the form of every error
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)
