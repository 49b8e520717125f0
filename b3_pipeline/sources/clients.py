"""The sources' clients: where each is asked, with what credentials, and what its payload is called."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from urllib.parse import urlsplit

import httpx2

from b3_pipeline.parsing.kinds import CAPTURE, DXY_CHART, FINANCIAL_INDICATORS, GAMMA, GAMMA_LEVELS, VOL_SURFACE
from b3_pipeline.sessions import ZONE, to_local
from b3_pipeline.settings import Settings
from b3_pipeline.sources import genuine
from b3_pipeline.sources.fetching import Answer, Asked, Fetched, Getter, Question, Unchanged, Unreachable

GAMMA_CREDENTIALS = "B3_GAMMA_USER, B3_GAMMA_SECRET"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def settlements(settings: Settings, getter: Getter, asked: Asked) -> Fetched:
    """B3's price report of the session asked for. A day has its own address, so no older answer's validators go along."""
    day = f"{asked.session:%y%m%d}"
    answer = getter.get(Question(settings.settlements_url.replace("{yymmdd}", day), dated=True))
    return _fetched(f"SPRD{day}.zip", answer, genuine.settlements(answer.data, asked), asked)


def indicators(settings: Settings, getter: Getter, asked: Asked) -> Fetched:
    """B3's financial indicators, the newest value of each."""
    answer = getter.get(_newer(settings.indicators_url, asked))
    return _fetched(FINANCIAL_INDICATORS.file, answer, genuine.indicators(answer.data), asked)


def vol_surface(settings: Settings, getter: Getter, asked: Asked) -> Fetched:
    """B3's volatility surface: there is only the newest."""
    answer = getter.get(_newer(settings.vol_surface_url, asked))
    return _fetched(VOL_SURFACE.file, answer, genuine.vol_surface(answer.data, asked), asked)


def dxy(settings: Settings, getter: Getter, asked: Asked) -> Fetched:
    """Yahoo's chart of the dollar index: of the day so far, or of the older session asked for."""
    url = settings.dxy_url
    if asked.session < to_local(asked.now).date():
        url = str(httpx2.URL(url).copy_remove_param("range").copy_merge_params(_span(asked.session)))
    answer = getter.get(Question(url))
    return _fetched(DXY_CHART.file, answer, genuine.dxy(answer.data), asked)


def gamma(settings: Settings, getter: Getter, asked: Asked) -> Fetched:
    """The provider's newest gamma levels. Raises `Unreachable` where a setting is missing, or the secret would be seen."""
    url, secret = settings.gamma_url, settings.gamma_secret
    if url is None or secret is None:
        raise Unreachable(f"Nobody to ask for gamma levels: set B3_GAMMA_URL and {GAMMA_CREDENTIALS}.")
    if not _private(url):
        raise Unreachable("B3_GAMMA_URL is not encrypted, and the secret would be seen: it must begin with https://.")
    auth = _auth(settings.gamma_user, secret.get_secret_value().strip())
    question = replace(_newer(url, asked), auth=auth, credentials=GAMMA_CREDENTIALS)
    answer = getter.get(question)
    return _fetched(GAMMA_LEVELS.file, answer, genuine.gamma(answer.data), asked)


def legacy_capture(settings: Settings, getter: Getter, asked: Asked) -> Fetched:
    """The legacy server's newest capture."""
    answer = getter.get(_newer(_legacy(settings, "ultimo-dado"), asked))
    return _fetched(CAPTURE.file, answer, genuine.legacy_capture(answer.data), asked)


def legacy_gamma(settings: Settings, getter: Getter, asked: Asked) -> Fetched:
    """The legacy server's newest gamma levels."""
    answer = getter.get(_newer(_legacy(settings, "gamma"), asked))
    return _fetched(GAMMA.file, answer, genuine.legacy_gamma(answer.data), asked)


class _Bearer(httpx2.Auth):
    """A token in the header that is made for it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def _auth(user: str | None, secret: str) -> httpx2.Auth:
    """HTTP basic where there is a user, else the secret is a token. Raises `Unreachable` for what no token can be."""
    if user:
        return httpx2.BasicAuth(user, secret)
    if not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise Unreachable("B3_GAMMA_SECRET is no token: it has spaces or characters that none has.")
    return _Bearer(secret)


def _private(url: str) -> bool:
    """Whether nobody on the way can read what is sent."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK


def _newer(url: str, asked: Asked) -> Question:
    """Asks for what has changed since the newest payload."""
    return Question(url, etag=asked.etag, last_modified=asked.last_modified)


def _legacy(settings: Settings, document: str) -> str:
    if settings.legacy_url is None:
        raise Unreachable("No legacy server to ask: set B3_LEGACY_URL.")
    return f"{settings.legacy_url.rstrip('/')}/{document}"


def _span(day: date) -> dict[str, int]:
    """A local day, as Yahoo wants it: from and to in seconds since 1970."""
    first, last = (datetime.combine(d, time(), ZONE) for d in (day, day + timedelta(days=1)))
    return {"period1": int(first.timestamp()), "period2": int(last.timestamp())}


def _fetched(name: str, answer: Answer, session: date | None, asked: Asked) -> Fetched:
    """The payload. Raises `Unchanged` when it is the newest that is there."""
    if hashlib.sha256(answer.data).hexdigest() == asked.sha256:
        raise Unchanged
    return Fetched(
        name,
        answer.data,
        answer.url,
        answer.status,
        session,
        answer.etag,
        answer.last_modified,
        answer.content_type,
    )
