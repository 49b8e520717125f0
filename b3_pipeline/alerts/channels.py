"""Where alerts go: a webhook, Slack, e-mail, Alertmanager, and the log that is always written.

A channel sends one message, once, within its time limits, or raises Undelivered; trying again is the outbox's. Addresses
are secrets, for whoever has one may write there: errors and logs have scheme and host at most, and no server's words.
"""

from __future__ import annotations

import logging
import os
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import httpx2
from pydantic import SecretStr

from b3_pipeline import processes
from b3_pipeline.alerts import messages
from b3_pipeline.alerts.engine import OVER, Message, Notice
from b3_pipeline.errors import B3Error
from b3_pipeline.settings import Settings, Severity

TIMEOUT_S = 10.0
LOG_NAME = "alerts.log"
#: Alertmanager takes an alert for resolved when it was not told of it for so long; it is told three times in between.
ALERTMANAGER_ENDS_S = 900.0
LONGEST_WAIT_S = 3_600.0
#: Answers by which a server says that it will never take this message, while it may take another one.
_OF_THE_MESSAGE = {400, 413, 415, 422}
# The client's log names whole addresses.
logging.getLogger("httpx2").setLevel(logging.WARNING)


class Misconfigured(B3Error):
    """A channel's settings cannot be used."""


class Undelivered(B3Error):
    """A message did not get through. `refused`: the server wants this one never; `wait_s`: it wants to be left alone."""

    def __init__(self, why: str, *, refused: bool = False, wait_s: float = 0) -> None:
        super().__init__(why)
        self.refused, self.wait_s = refused, min(wait_s, LONGEST_WAIT_S)


class Channel(Protocol):
    """A channel: its name, the least severity it takes, how often it must be told again what is open (None: never)."""

    @property
    def name(self) -> str: ...

    @property
    def min_severity(self) -> Severity: ...

    @property
    def renew_s(self) -> float | None: ...

    def send(self, message: Message) -> str | None:
        """Returns when the message has been taken: what is wrong where not all got it, else None. Raises Undelivered."""
        ...


@dataclass(frozen=True)
class LogFile:
    """Every message, in a file that only its owner can read."""

    path: Path
    base: str
    name: str = "log"
    min_severity: Severity = "WARN"
    renew_s: float | None = None

    def send(self, message: Message) -> None:
        at = f"{message.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        written = "".join(
            f"{at} {messages.heading(notice)} | {' | '.join(messages.lines(notice, self.base))}\n"
            for notice in message.notices
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            processes.rotate(self.path)
            descriptor = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            with open(descriptor, "a", encoding="utf-8") as log:
                log.write(written)
        except OSError as error:
            raise Undelivered(f"{self.path} cannot be written: {error.strerror}") from None


@dataclass(frozen=True)
class Webhook:
    """A POST of JSON, as `messages.data` has it."""

    url: SecretStr
    base: str
    min_severity: Severity
    name: str = "webhook"
    renew_s: float | None = None

    def send(self, message: Message) -> None:
        _post(self.url, messages.data(message, self.base))


@dataclass(frozen=True)
class Slack:
    """Slack's incoming webhook: blocks to look at, text for notifications."""

    url: SecretStr
    base: str
    min_severity: Severity
    name: str = "slack"
    renew_s: float | None = None

    def send(self, message: Message) -> None:
        heading = messages.title(message)
        blocks = [
            {"type": "header", "text": {"type": "plain_text", "text": heading[:150]}},
            *({"type": "section", "text": _mrkdwn(self._section(notice))} for notice in message.notices),
        ]
        if message.lost:
            blocks.append({"type": "context", "elements": [_mrkdwn(_slack_text(messages.lost(message)))]})
        _post(self.url, {"text": _slack_text(heading), "blocks": blocks})

    def _section(self, notice: Notice) -> str:
        *said, link = messages.lines(notice, self.base)
        body = "\n".join(map(_slack_text, said))[:2_500]
        return f"*{_slack_text(messages.heading(notice))}*\n{body}\n<{_slack_text(link)}|Open in Dagster>"


@dataclass(frozen=True)
class Alertmanager:
    """Prometheus' Alertmanager, which groups, routes and silences itself; it forgets what it is not told again."""

    url: SecretStr
    base: str
    min_severity: Severity
    name: str = "alertmanager"
    renew_s: float | None = ALERTMANAGER_ENDS_S / 4

    def send(self, message: Message) -> None:
        now = datetime.now(UTC)
        alerts = [alert for notice in message.notices for alert in self._alerts(notice, now)]
        _post(SecretStr(self.url.get_secret_value().rstrip("/") + "/api/v2/alerts"), alerts)

    def _alerts(self, notice: Notice, now: datetime) -> Iterator[dict[str, Any]]:
        """An alert under its severity; one that got worse is no more what it was before."""
        over = notice.event in (*OVER, "test")
        yield self._alert(notice, notice.alert.severity, now if over else now + timedelta(seconds=ALERTMANAGER_ENDS_S))
        if notice.event == "escalated":
            yield self._alert(notice, "WARN", now)

    def _alert(self, notice: Notice, severity: Severity, ends: datetime) -> dict[str, Any]:
        alert = notice.alert
        return {
            "labels": {
                "alertname": f"B3{alert.kind.capitalize()}",
                "name": alert.name,
                "severity": "critical" if severity == "ERROR" else "warning",
                "instance": urlsplit(self.base).netloc,
            },
            "annotations": {
                "summary": messages.heading(notice),
                "description": alert.what,
                "what_to_do": alert.what_to_do,
            },
            "startsAt": min(alert.opened, ends).isoformat(),
            "endsAt": ends.isoformat(),
            "generatorURL": messages.link(self.base, notice),
        }


@dataclass(frozen=True)
class Email:
    """SMTP with TLS where the server has it; a password is only ever sent through TLS, or to this machine itself."""

    url: SecretStr
    base: str
    to: tuple[str, ...]
    sender: str
    min_severity: Severity
    name: str = "email"
    renew_s: float | None = None

    def send(self, message: Message) -> str | None:
        mail = EmailMessage()
        mail["Subject"] = messages.title(message)[:200]
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        mail["Date"] = format_datetime(message.at)
        mail["Message-ID"] = f"<{message.id}@b3-pipeline>"  # one that comes twice is one to a mail program
        mail.set_content(messages.text(message, self.base))
        parts = _smtp_parts(self.url)
        with _smtp_errors(parts), self._connected(parts) as server:
            refused = server.send_message(mail)
        if not refused:
            return None
        codes = sorted({code for code, _said in refused.values()})
        return f"{parts.scheme}://{parts.hostname} refused {len(refused)} of {len(self.to)} recipients ({codes})"

    @contextmanager
    def _connected(self, parts: SplitResult) -> Iterator[smtplib.SMTP]:
        host, secure = parts.hostname or "", parts.scheme == "smtps"
        port = parts.port or (465 if secure else 587 if parts.username else 25)
        context = ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
            if secure
            else smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        ) as server:
            server.ehlo_or_helo_if_needed()
            never = parse_qs(parts.query).get("starttls") == ["never"]
            if not secure and not never and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
                secure = True
            if parts.username:
                if not secure and not _is_here(host):
                    raise Undelivered(f"smtp://{host} has no TLS, and a password is not sent without: use smtps://.")
                server.login(unquote(parts.username), unquote(parts.password or ""))
            yield server


def configured(settings: Settings) -> tuple[list[Channel], dict[str, str]]:
    """The channels of the settings, the log first; and by name, why one that is wanted cannot be used."""
    base = messages.base_of(settings)
    found: list[Channel] = [LogFile(settings.home / "logs" / LOG_NAME, base)]
    problems: dict[str, str] = {}
    for name, make in _MAKERS.items():
        try:
            channel = make(settings, base)
        except Misconfigured as error:
            problems[name] = str(error)
        else:
            if channel:
                found.append(channel)
    return found, problems


def _webhook(settings: Settings, base: str) -> Channel | None:
    url = _checked(settings.alert_webhook_url, "B3_ALERT_WEBHOOK_URL")
    return Webhook(url, base, settings.alert_webhook_min_severity) if url else None


def _slack(settings: Settings, base: str) -> Channel | None:
    url = _checked(settings.alert_slack_url, "B3_ALERT_SLACK_URL")
    return Slack(url, base, settings.alert_slack_min_severity) if url else None


def _alertmanager(settings: Settings, base: str) -> Channel | None:
    url = _checked(settings.alert_alertmanager_url, "B3_ALERT_ALERTMANAGER_URL")
    return Alertmanager(url, base, settings.alert_alertmanager_min_severity) if url else None


def _email(settings: Settings, base: str) -> Channel | None:
    if not settings.alert_smtp_url:
        return None
    _smtp_parts(settings.alert_smtp_url)
    if not settings.alert_email_to:
        raise Misconfigured("B3_ALERT_SMTP_URL is set, and nobody to write to: set B3_ALERT_EMAIL_TO.")
    bad = [address for address in (*settings.alert_email_to, settings.alert_email_from) if not _is_address(address)]
    if bad:
        raise Misconfigured(f"{bad[0]!r} is no e-mail address: correct B3_ALERT_EMAIL_TO or B3_ALERT_EMAIL_FROM.")
    to, sender = tuple(settings.alert_email_to), settings.alert_email_from
    return Email(settings.alert_smtp_url, base, to, sender, settings.alert_email_min_severity)


_MAKERS = {"webhook": _webhook, "slack": _slack, "email": _email, "alertmanager": _alertmanager}


def _is_address(text: str) -> bool:
    name, at, host = text.partition("@")
    return bool(name and at and host) and text.isascii() and text.isprintable() and not set(text) & set(' ,;<>"()')


def _checked(url: SecretStr | None, variable: str) -> SecretStr | None:
    """The same address, found to be one. Raises Misconfigured, which quotes nothing of it."""
    if url is None:
        return None
    try:
        parts = httpx2.URL(url.get_secret_value())
        urlsplit(url.get_secret_value())  # knows of brackets that are not closed
    except (httpx2.InvalidURL, ValueError):
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host:
        raise Misconfigured(f"{variable} must be an address that begins with https:// (or http://).")
    return url


def _smtp_parts(url: SecretStr) -> SplitResult:
    """The parts of an SMTP address. Raises Misconfigured, which quotes nothing of it."""
    try:
        parts = urlsplit(url.get_secret_value())
        good = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.fragment or parts.path not in ("", "/"):
        raise Misconfigured(
            "B3_ALERT_SMTP_URL must look like smtp://user:password@host:587 or smtps://user:password@host:465, "
            "with @ : / ? # % in user and password percent-encoded."
        )
    return parts


def _post(url: SecretStr, body: Any) -> None:
    """Posts JSON and returns when it was taken. Raises Undelivered."""
    address = httpx2.URL(url.get_secret_value())
    where = f"{address.scheme}://{address.host}"
    try:
        with (
            httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=not _is_here(address.host)) as client,
            client.stream("POST", address, json=body) as answer,  # what the server says beyond its status is not read
        ):
            status, wait = answer.status_code, answer.headers.get("retry-after", "")
    except httpx2.TimeoutException:
        raise Undelivered(f"{where} did not answer within {TIMEOUT_S:.0f} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise Undelivered(f"{where} cannot be reached ({type(error).__name__})") from None
    if not 200 <= status < 300:
        why = f"{where} answered {status}"
        raise Undelivered(why, refused=status in _OF_THE_MESSAGE, wait_s=float(wait) if wait.isdecimal() else 0)


@contextmanager
def _smtp_errors(parts: SplitResult) -> Iterator[None]:
    """Says of SMTP's errors what may be said: codes, never a server's words or an address."""
    where = f"{parts.scheme}://{parts.hostname}"
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        raise Undelivered(f"{where} refused user or password ({error.smtp_code})") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = sorted({code for code, _said in error.recipients.values()})
        permanent = all(code >= 500 for code in codes)
        raise Undelivered(f"{where} took no recipient ({codes})", refused=permanent) from None
    except smtplib.SMTPResponseException as error:
        refused = isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500
        raise Undelivered(f"{where} answered {error.smtp_code}", refused=refused) from None
    except smtplib.SMTPServerDisconnected:
        raise Undelivered(f"{where} did not answer, or hung up") from None
    except TimeoutError:
        raise Undelivered(f"{where} did not answer within {TIMEOUT_S:.0f} s") from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise Undelivered(f"{where} cannot be reached ({type(error).__name__})") from None


def _is_here(host: str) -> bool:
    """Whether a host is this machine, which needs neither proxy nor TLS."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _mrkdwn(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}
