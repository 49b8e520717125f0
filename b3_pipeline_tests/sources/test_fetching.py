"""The careful GET, against a real server that misbehaves in every way that is met."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from b3_pipeline.settings import Settings
from b3_pipeline.sources import fetching
from b3_pipeline.sources.fetching import (
    CredentialsRefused,
    Getter,
    NotYet,
    Question,
    Refused,
    Unchanged,
    Unreachable,
    shown,
)

SECRET = "s3cr3t-of-the-desk"


class Waits:
    """Counts further attempts, and waits by noting for how long."""

    def __init__(self) -> None:
        self.retries = 0
        self.seconds: list[float] = []

    def retried(self) -> None:
        self.retries += 1


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def get(tmp_path: Path, waits: Waits) -> Callable[..., fetching.Answer]:
    def ask(url: str, settings: dict[str, Any] | None = None, **question: Any) -> fetching.Answer:
        given = {"http_timeout_s": 5, "http_deadline_s": 20, **(settings or {})}
        getter = Getter(Settings(home=tmp_path, **given), waits.retried, waits.seconds.append)
        return getter.get(Question(url, **question))

    return ask


@contextmanager
def raw_server(*answers: bytes, drip: bytes = b"") -> Iterator[str]:
    """A server that sends exactly these bytes, one answer a connection, and then a byte every 50 ms while it may."""
    ended = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)
                while drip and not ended.wait(0.05):
                    try:
                        connection.sendall(drip)
                    except OSError:
                        return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        ended.set()
        listener.close()
        thread.join(5)


def answers(*responses: Response) -> Callable[[Request], Response]:
    """Each response once, in order."""
    left = iter(responses)
    return lambda _request: next(left)


def test_an_answer_has_its_body_its_validators_and_an_address_to_show(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits
) -> None:
    headers = {"ETag": '"a1"', "Last-Modified": "Mon, 12 Jan 2026 22:25:00 GMT", "Content-Type": "application/zip"}
    httpserver.expect_request("/file").respond_with_data(b"PK...", headers=headers)
    answer = get(httpserver.url_for("/file?filelist=a.zip"))
    assert answer == fetching.Answer(
        httpserver.url_for("/file"), 200, b"PK...", '"a1"', "Mon, 12 Jan 2026 22:25:00 GMT", "application/zip"
    )
    request, _ = httpserver.log[0]
    assert "b3-pipeline" in request.headers["User-Agent"]
    assert "If-None-Match" not in request.headers
    assert waits.retries == 0


def test_what_has_not_changed_is_not_sent_again(httpserver: HTTPServer, get: Callable[..., fetching.Answer]) -> None:
    since = "Mon, 12 Jan 2026 22:25:00 GMT"
    httpserver.expect_request("/", headers={"If-None-Match": '"a1"', "If-Modified-Since": since}).respond_with_data(
        b"", status=304
    )
    with pytest.raises(Unchanged):
        get(httpserver.url_for("/"), etag='"a1"', last_modified=since)


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_not_yet_there_at_a_dated_address_and_has_moved_from_any_other(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], status: int
) -> None:
    httpserver.expect_request("/").respond_with_data(b"no", status=status)
    with pytest.raises(NotYet, match=f"is not there \\({status}\\)"):
        get(httpserver.url_for("/"), dated=True)
    with pytest.raises(Unreachable, match=f"is not there \\({status}\\)"):
        get(httpserver.url_for("/"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_source_is_asked_again_after_a_while_that_grows(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits, status: int
) -> None:
    busy = [Response(b"busy", status) for _ in range(2)]
    httpserver.expect_request("/").respond_with_handler(answers(*busy, Response(b"data")))
    assert get(httpserver.url_for("/")).data == b"data"
    assert waits.retries == 2
    first, second = waits.seconds
    assert 0.5 <= first <= 1 <= second <= 1.5


def test_a_source_that_stays_busy_is_given_up_after_the_last_attempt(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits
) -> None:
    httpserver.expect_request("/").respond_with_data(b"", status=503)
    with pytest.raises(Unreachable, match=r"/ answered 503 \(3 attempts\)\.$"):
        get(httpserver.url_for("/"), {"http_attempts": 3})
    assert (waits.retries, len(httpserver.log)) == (2, 3)


@pytest.mark.parametrize("dated", [False, True])
def test_a_source_that_says_how_long_is_left_alone_for_so_long(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits, dated: bool
) -> None:
    server_time = datetime(2020, 1, 1, tzinfo=UTC)  # its clock is wrong: only the difference counts
    headers = {"Retry-After": format_datetime(server_time + timedelta(seconds=7), usegmt=True) if dated else "7"}
    headers |= {"Date": format_datetime(server_time, usegmt=True)}
    busy = b"HTTP/1.1 429 Too Many\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode() + b"\r\n"
    with raw_server(busy, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata") as url:
        assert get(url).data == b"data"
    (seconds,) = waits.seconds
    assert 7 <= seconds <= 7.2


def test_a_source_that_wants_to_be_left_alone_for_long_is_left_until_the_next_time(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits
) -> None:
    httpserver.expect_request("/").respond_with_data(b"", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(Unreachable, match="answered 429 and wants to be left alone for 3600 s"):
        get(httpserver.url_for("/"))
    assert waits.seconds == []


def test_no_attempt_is_begun_that_would_come_after_the_deadline(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits
) -> None:
    httpserver.expect_request("/").respond_with_data(b"", status=503, headers={"Retry-After": "6"})
    with pytest.raises(Unreachable, match="answered 503"):
        get(httpserver.url_for("/"), {"http_deadline_s": 5})
    assert (waits.seconds, len(httpserver.log)) == ([], 1)


@pytest.mark.parametrize("garbled", ["soon", "-3", "٣", "Mon, 99 Foo 2026 00:00:00 GMT", ""])
def test_a_garbled_wish_to_be_left_alone_is_none(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits, garbled: str
) -> None:
    busy = Response(b"", 429, headers={"Retry-After": garbled} if garbled.isascii() else {})
    httpserver.expect_request("/").respond_with_handler(answers(busy, Response(b"data")))
    assert get(httpserver.url_for("/")).data == b"data"
    assert waits.seconds[0] <= 1


def test_a_connection_that_is_cut_in_mid_body_is_tried_again(get: Callable[..., fetching.Answer], waits: Waits) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    with raw_server(head + b"half", head + b"0123456789") as url:
        assert get(url).data == b"0123456789"
    assert waits.retries == 1


@pytest.mark.parametrize(
    "garbage", [b"", b"no HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]
)
def test_a_source_that_speaks_no_whole_http_is_unreachable(get: Callable[..., fetching.Answer], garbage: bytes) -> None:
    with raw_server(garbage, garbage) as url, pytest.raises(Unreachable, match=r"breaks off .* \(2 attempts\)"):
        get(url, {"http_attempts": 2})


def test_nobody_who_listens_is_unreachable(get: Callable[..., fetching.Answer], waits: Waits) -> None:
    with raw_server() as url:
        pass
    with pytest.raises(Unreachable, match="cannot be reached"):
        get(url)
    assert waits.retries == 3


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
def test_an_answer_that_drips_ends_at_the_deadline(get: Callable[..., fetching.Answer], head: bytes) -> None:
    began = time.monotonic()
    with raw_server(head, drip=b"x") as url, pytest.raises(Unreachable, match=r"took longer than 0\.4 s"):
        get(url, {"http_deadline_s": 0.4})
    assert time.monotonic() - began < 4


def test_a_source_that_says_nothing_is_not_waited_for(get: Callable[..., fetching.Answer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(Unreachable, match="does not answer in time"):
            get(url, {"http_timeout_s": 0.1, "http_attempts": 1})


@pytest.mark.parametrize("declared", [True, False])
def test_an_answer_that_is_too_large_is_refused_while_it_comes(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], declared: bool
) -> None:
    body = b"x" * (3 << 20)
    httpserver.expect_request("/").respond_with_handler(
        lambda _request: Response(body if declared else iter([body[: 1 << 19]] * 6))
    )
    with pytest.raises(Refused, match="more than 1 MiB") as refused:
        get(httpserver.url_for("/"), {"http_max_mb": 1})
    assert refused.value.data == b"x" * fetching.KEPT_OF_TOO_LARGE


def test_an_answer_that_unpacks_to_too_much_is_refused(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer]
) -> None:
    bomb = gzip.compress(b"\0" * (50 << 20))
    httpserver.expect_request("/").respond_with_data(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(Refused, match="more than 1 MiB"):
        get(httpserver.url_for("/"), {"http_max_mb": 1})


def test_a_compressed_answer_is_unpacked_and_a_garbled_one_is_none(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer]
) -> None:
    coding = {"Content-Encoding": "gzip"}
    httpserver.expect_request("/good").respond_with_data(gzip.compress(b"data"), headers=coding)
    httpserver.expect_request("/bad").respond_with_data(b"no gzip", headers=coding)
    assert get(httpserver.url_for("/good")).data == b"data"
    with pytest.raises(Unreachable, match="DecodingError"):
        get(httpserver.url_for("/bad"), {"http_attempts": 1})


def test_redirects_are_followed_to_the_same_host(httpserver: HTTPServer, get: Callable[..., fetching.Answer]) -> None:
    httpserver.expect_request("/old").respond_with_data(b"", status=302, headers={"Location": "/new?a=1"})
    httpserver.expect_request("/new").respond_with_data(b"data")
    answer = get(httpserver.url_for("/old"), auth=httpx2.BasicAuth("desk", SECRET))
    assert (answer.data, answer.url) == (b"data", httpserver.url_for("/new"))
    assert [request.authorization is not None for request, _ in httpserver.log] == [True, True]


def test_redirects_in_circles_come_to_an_end(httpserver: HTTPServer, get: Callable[..., fetching.Answer]) -> None:
    httpserver.expect_request("/").respond_with_data(b"", status=302, headers={"Location": "/"})
    with pytest.raises(Unreachable, match="redirects more than 5 times"):
        get(httpserver.url_for("/"))
    assert len(httpserver.log) == fetching.REDIRECTS + 1


@pytest.mark.parametrize("location", ["http://localhost:{port}/?t=" + SECRET, "ftp://127.0.0.1/"])
def test_no_redirect_leads_to_another_host_without_encryption(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], location: str
) -> None:
    headers = {"Location": location.format(port=httpserver.port)}
    httpserver.expect_request("/").respond_with_data(b"", status=302, headers=headers)
    with pytest.raises(Unreachable, match="not encrypted") as error:
        get(httpserver.url_for("/"))
    assert SECRET not in str(error.value)
    assert {request.host for request, _ in httpserver.log} == {f"127.0.0.1:{httpserver.port}"}


def test_a_redirect_to_nowhere_is_no_answer(get: Callable[..., fetching.Answer]) -> None:
    with raw_server(b"HTTP/1.1 302 Found\r\n\r\n") as url, pytest.raises(Unreachable, match="answered 302"):
        get(url)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_named_by_their_settings_and_not_tried_again(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer], status: int
) -> None:
    httpserver.expect_request("/levels").respond_with_data(SECRET, status=status)
    question = {"auth": httpx2.BasicAuth("desk", SECRET), "credentials": "B3_GAMMA_USER, B3_GAMMA_SECRET"}
    with pytest.raises(CredentialsRefused, match="B3_GAMMA_USER, B3_GAMMA_SECRET") as error:
        get(httpserver.url_for("/levels"), **question)
    assert SECRET not in f"{error.value!r}"
    assert len(httpserver.log) == 1


def test_another_status_is_no_answer(httpserver: HTTPServer, get: Callable[..., fetching.Answer], waits: Waits) -> None:
    httpserver.expect_request("/").respond_with_data(b"tea", status=418)
    with pytest.raises(Unreachable, match="answered 418"):
        get(httpserver.url_for("/"))
    assert waits.retries == 0


def test_a_header_that_cannot_be_sent_does_not_show_what_is_in_it(
    httpserver: HTTPServer, get: Callable[..., fetching.Answer]
) -> None:
    def signed(request: httpx2.Request) -> httpx2.Request:
        request.headers["Authorization"] = f"Bearer {SECRET}\r\nX: 1"
        return request

    with pytest.raises(Unreachable, match="LocalProtocolError") as error:
        get(httpserver.url_for("/"), {"http_attempts": 1}, auth=httpx2.FunctionAuth(signed))
    assert SECRET not in f"{error.value!r}{error.value.__cause__!r}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:pw@b3.com.br:8443/a/b?token=1#x", "https://b3.com.br:8443/a/b"),
        ("http://127.0.0.1/", "http://127.0.0.1/"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, expected: str) -> None:
    assert shown(url) == shown(httpx2.URL(url)) == expected


def test_neither_a_question_nor_a_payload_shows_what_is_in_it() -> None:
    question = Question("https://b3.com.br", httpx2.BasicAuth("desk", SECRET))
    payload = fetching.Fetched("a", SECRET.encode(), "https://b3.com.br", 200)
    assert SECRET not in f"{question}{payload}"
