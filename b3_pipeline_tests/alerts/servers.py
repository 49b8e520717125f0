"""Real servers that alerts are sent to in tests: SMTP and HTTP, on 127.0.0.1, keeping what they get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from b3_pipeline.ports import HOST


class Mailbox:
    """An SMTP server with what it was sent; `answer` is what it says to a mail, `refused` to a recipient (`only` this one)."""

    def __init__(self, port: int) -> None:
        self.port, self.mails, self.logins = port, [], []
        self.answer, self.refused, self.only = "250 taken", "", ""
        self.mails: list[EmailMessage]
        self.logins: list[tuple[str, str]]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        return self.refused if self.refused and self.only in ("", address) else "250 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            mail = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
        return self.answer

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        login = (data.login.decode(), data.password.decode())
        self.logins.append(login)
        return AuthResult(success=login == ("desk", "p@ss word"), handled=False)


@contextmanager
def mailbox(port: int, *, with_login: bool = False) -> Iterator[Mailbox]:
    """An SMTP server on a port of this machine while the block lasts."""
    box = Mailbox(port)
    options: dict[str, Any] = {}
    if with_login:
        options = {"authenticator": box.authenticate, "auth_require_tls": False}
    controller = Controller(box, hostname=HOST, port=port, **options)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


class Hooks:
    """An HTTP server for webhook, Slack and Alertmanager, with what it was posted by path; `status` is what it answers."""

    WEBHOOK, SLACK, ALERTMANAGER = "/hook/s3cret-hook", "/services/T0/B0/s3cret-slack", "/api/v2/alerts"

    def __init__(self, server: HTTPServer) -> None:
        self.base = server.url_for("").rstrip("/")
        self.posted: dict[str, list[Any]] = {self.WEBHOOK: [], self.SLACK: [], self.ALERTMANAGER: []}
        self.status: dict[str, int] = {}
        self.tries: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        for path in self.posted:
            server.expect_request(path, method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        status = self.status.get(request.path, 200)
        self.tries[request.path] = self.tries.get(request.path, 0) + 1
        if status < 300:
            self.posted[request.path].append(json.loads(request.data))
        return Response("s3cret words of a server", status, self.headers)
