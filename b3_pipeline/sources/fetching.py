"""Fetching from a source: what is asked, what came, and what went wrong; and the careful HTTP GET that all share."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

import httpx2
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential_jitter,
)

from b3_pipeline.errors import B3Error
from b3_pipeline.settings import Settings

REDIRECTS = 5
#: How much of an answer that is too large is kept to look at.
KEPT_OF_TOO_LARGE = 64 << 10
_TOO_BUSY = (408, 425, 429)
_WAIT = wait_exponential_jitter(multiplier=0.5, jitter=0.5, max=15)  # seconds
# httpx2 logs every URL at INFO, with what may stand in its query.
logging.getLogger("httpx2").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Asked:
    """What is wanted of a source, and what is there already.

    `now` is aware UTC, of the settings' clock; `session` the one whose data is wanted. The three that follow are of the
    source's newest payload: the HTTP validators that came with it, and its SHA-256 in hex. `due` (aware UTC) is when
    the session's data must be there: an older session's is `NotYet` before, `Refused` from then on.
    """

    now: datetime
    session: date
    etag: str | None = None
    last_modified: str | None = None
    sha256: str | None = None
    due: datetime | None = None

    @property
    def overdue(self) -> bool:
        return self.due is not None and self.now >= self.due


@dataclass(frozen=True)
class Fetched:
    """A payload as it came, and what is known of it.

    `name` is what it is called: constant for a source, dated where the source dates it (`SPRD260112.zip`). `url` has no
    secret in it. `session` is the one that the payload is of, where it says so.
    """

    name: str
    data: bytes = field(repr=False)
    url: str
    status: int
    session: date | None = None
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None


class Unchanged(Exception):
    """The source has nothing newer than what is there: 304, or the same bytes again."""


class NotYet(B3Error):
    """The source does not have it yet. No failure before it is due."""


class Refused(B3Error):
    """The answer is not what it claims to be; `data` is what came of it. It is kept and counted, never loaded."""

    def __init__(self, problem: str, data: bytes = b"") -> None:
        super().__init__(problem)
        self.data = data


class Unreachable(B3Error):
    """No answer, or none but errors after the bounded attempts; or the credentials were refused."""


class CredentialsRefused(Unreachable):
    """The source does not let us in: 401 or 403."""


@dataclass(frozen=True)
class Answer:
    """What a URL answered with 200: its body, decompressed, and the headers that matter. `url` may be shown."""

    url: str
    status: int
    data: bytes = field(repr=False)
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None


@dataclass(frozen=True)
class Question:
    """What is asked of a URL: with whose credentials, and which validators of an older answer.

    `credentials` names the settings to look at when the source does not let us in. `dated`: a day's data has an address
    of its own, so that 404 means "not yet"; any other address that is not there has moved.
    """

    url: str
    auth: httpx2.Auth | None = field(default=None, repr=False)
    credentials: str | None = None
    dated: bool = False
    etag: str | None = None
    last_modified: str | None = None


class _Again(Exception):
    """An attempt failed in a way that another one may not; `wait` is what the source asks for, in seconds."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class Getter:
    """GETs with time-outs, a deadline, bounded attempts, bounded answers, and no secret in what it says.

    `retried` is told of each further attempt; `sleep` (seconds) waits for it. May be used by several threads.
    """

    def __init__(
        self,
        settings: Settings,
        retried: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._retried, self._sleep = settings, retried, sleep
        self._tls = httpx2.create_ssl_context()

    def get(self, question: Question) -> Answer:
        """What is there. Raises `Unchanged`, `NotYet` (404, 410 of a dated address), `Refused` (too large), or `Unreachable`."""
        deadline = self._settings.http_deadline_s
        until = time.monotonic() + deadline
        attempts = Retrying(
            retry=retry_if_exception_type(_Again),
            wait=_pause,
            stop=stop_after_attempt(self._settings.http_attempts) | stop_before_delay(deadline),
            before_sleep=lambda _state: self._retried(),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return attempts(self._attempt, question, until)
        except _Again as error:
            tried = attempts.statistics.get("attempt_number", 1)
            after = f" ({tried} attempts)" if tried > 1 else ""
            raise Unreachable(f"{shown(question.url)} {error}{after}.") from None

    def _attempt(self, question: Question, until: float) -> Answer:
        left = until - time.monotonic()
        if left <= 0:
            raise Unreachable(f"{shown(question.url)} took longer than {self._settings.http_deadline_s:g} s.")
        with Deadline(left) as deadline:
            try:
                with self._client(left) as client:
                    return self._follow(client, question, deadline)
            except httpx2.RequestError as error:
                if deadline.passed:
                    problem = f"took longer than {self._settings.http_deadline_s:g} s"
                    raise Unreachable(f"{shown(question.url)} {problem}.") from None
                raise _Again(_why(error)) from None

    def _client(self, left: float) -> httpx2.Client:
        # one for each attempt: sources are asked every few minutes, and no connection is stale
        timeout = httpx2.Timeout(min(self._settings.http_timeout_s, left))
        headers = {"User-Agent": self._settings.http_user_agent, "Accept-Encoding": "gzip, deflate", "Accept": "*/*"}
        return httpx2.Client(verify=self._tls, timeout=timeout, headers=headers)

    def _follow(self, client: httpx2.Client, question: Question, deadline: Deadline) -> Answer:
        """The answer after a bounded number of redirects, of which none leads out of encryption."""
        conditions = {"If-None-Match": question.etag, "If-Modified-Since": question.last_modified}
        headers = {name: value for name, value in conditions.items() if value}
        extensions = {"trace": deadline.watch}
        request = client.build_request("GET", question.url, headers=headers, extensions=extensions)
        auth = question.auth
        for _ in range(REDIRECTS + 1):
            response = client.send(request, stream=True, auth=auth, follow_redirects=False)
            try:
                if response.next_request is None:
                    _check_status(response, question, self._settings.http_max_wait_s)
                    return self.answer(response, deadline)
                # httpx2 leaves the credentials out of what goes to another host
                request, auth = _checked_redirect(request, response.next_request), None
            finally:
                response.close()
        raise Unreachable(f"{shown(question.url)} redirects more than {REDIRECTS} times.")

    def answer(self, response: httpx2.Response, deadline: Deadline) -> Answer:
        """Reads the body, at most `http_max_mb` of it before and after decompression. Who wants less overrides it."""
        limit = self._settings.http_max_mb << 20
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if max(len(body), response.num_bytes_downloaded) > limit:
                problem = f"{shown(response.url)} sends more than {limit >> 20} MiB: it is not what is expected there."
                raise Refused(problem, bytes(body[:KEPT_OF_TOO_LARGE]))
            if deadline.passed:
                break
        if deadline.passed:  # a body without a length ends with its connection, also when we ended that
            raise httpx2.ReadTimeout("the deadline has passed")
        headers = response.headers
        return Answer(
            shown(response.url),
            response.status_code,
            bytes(body),
            headers.get("ETag"),
            headers.get("Last-Modified"),
            headers.get("Content-Type"),
        )


def shown(url: str | httpx2.URL) -> str:
    """A URL as it may be shown and kept: without user, password, query and fragment."""
    parts = urlsplit(str(url))
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


class Deadline:
    """Ends a request that does not come to an end by itself: time-outs count from each byte that arrives."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._until

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Told by httpx2 of each connection that it opens (its `trace` extension)."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self.passed:
                self._end()

    def _end(self) -> None:
        for connection in list(self._sockets):
            with suppress(OSError):  # it may have ended at this very moment
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()


def _check_status(response: httpx2.Response, question: Question, longest_wait: float) -> None:
    status, url = response.status_code, shown(response.url)
    if status == 200:
        return
    if status == 304:
        raise Unchanged
    if status in (404, 410):
        if question.dated:
            raise NotYet(f"{url} is not there ({status}).")
        raise Unreachable(f"{url} is not there ({status}): the address may be another now.")
    if status in (401, 403):
        look = f"credentials refused: look at {question.credentials}" if question.credentials else "access refused"
        raise CredentialsRefused(f"{url} answered {status}: {look}.")
    if status in _TOO_BUSY or status >= 500:
        wait = _retry_after(response)
        if wait is not None and wait > longest_wait:
            raise Unreachable(f"{url} answered {status} and wants to be left alone for {wait:.0f} s.")
        raise _Again(f"answered {status}", wait)
    raise Unreachable(f"{url} answered {status}.")


def _checked_redirect(request: httpx2.Request, following: httpx2.Request) -> httpx2.Request:
    """The request that follows. Raises `Unreachable` when it would go to another host, or on, without encryption."""
    old, new = request.url, following.url
    if new.scheme != "https" and (old.scheme, old.host) != (new.scheme, new.host):
        raise Unreachable(f"{shown(old)} redirects to {shown(new)}, which is not encrypted.")
    return following


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds that the source wants to be left alone: a number, or a date by the source's own clock."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        now = parsedate_to_datetime(response.headers["Date"]) if "Date" in response.headers else datetime.now(UTC)
        return max(0.0, (_aware(parsedate_to_datetime(text)) - _aware(now)).total_seconds())
    except ValueError:
        return None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: what the source asks for, and some of chance; else longer with each."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Again) and error.wait is not None:
        return error.wait + _WAIT(state) / 10
    return _WAIT(state)


def _why(error: httpx2.RequestError) -> str:
    """What went wrong on the way, in words that cannot hold a header, a proxy's address or a body."""
    if isinstance(error, httpx2.ConnectTimeout):
        return "cannot be reached in time"
    if isinstance(error, httpx2.TimeoutException):
        return "does not answer in time"
    if isinstance(error, httpx2.ConnectError):
        return f"cannot be reached: {str(error)[:200]}"
    if isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError):
        return "breaks off in the middle, or speaks no HTTP"
    return f"cannot be read ({type(error).__name__})"


Fetch: TypeAlias = Callable[[Settings, Getter, Asked], Fetched]
