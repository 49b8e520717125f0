"""Each source's client against a real server: what it asks, what it takes, and what it never shows."""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr, ValidationError
from pytest_httpserver import HTTPServer

from b3_pipeline import sample_payloads
from b3_pipeline.parsing import kinds
from b3_pipeline.settings import Settings
from b3_pipeline.sources import clients
from b3_pipeline.sources.catalog import SOURCES
from b3_pipeline.sources.fetching import (
    Asked,
    CredentialsRefused,
    Fetch,
    Fetched,
    Getter,
    NotYet,
    Refused,
    Unchanged,
    Unreachable,
)
from b3_pipeline.sources.probing import Probe, probe
from b3_pipeline.tables import TABLES

SECRET = "s3cr3t-of-the-desk"
DAY = date(2026, 1, 12)
NOW = datetime(2026, 1, 12, 22, 30, tzinfo=UTC)
ASKED = Asked(NOW, DAY)


@pytest.fixture
def settings(httpserver: HTTPServer, tmp_path: Path) -> Settings:
    """All sources at one server."""
    return Settings(
        home=tmp_path,
        now=NOW,
        settlements_url=httpserver.url_for("/pesquisapregao/download") + "?filelist=SPRD{yymmdd}.zip",
        indicators_url=httpserver.url_for("/indicators"),
        vol_surface_url=httpserver.url_for("/surface.zip"),
        dxy_url=httpserver.url_for("/chart/DX-Y.NYB") + "?interval=5m&range=1d",
        gamma_url=httpserver.url_for("/levels"),
        gamma_user="desk",
        gamma_secret=SecretStr(SECRET),
        legacy_url=httpserver.url_for("/"),
        http_attempts=2,
        http_timeout_s=5,
    )


def asking(fetch: Fetch, settings: Settings, asked: Asked = ASKED) -> Fetched:
    return fetch(settings, Getter(settings, sleep=lambda _seconds: None), asked)


def changed(settings: Settings, **given: Any) -> Settings:
    return settings.model_copy(update=given)


CASES: dict[str, tuple[Fetch, str, str, bytes]] = {
    "settlements": (
        clients.settlements,
        "/pesquisapregao/download",
        "SPRD260112.zip",
        sample_payloads.settlement_report(DAY),
    ),
    "indicators": (
        clients.indicators,
        "/indicators",
        "financial_indicators.json",
        sample_payloads.financial_indicators(DAY),
    ),
    "vol_surface": (
        clients.vol_surface,
        "/surface.zip",
        "Superficie-de-volatilidade-de-dolar.zip",
        sample_payloads.vol_surface(DAY),
    ),
    "dxy": (clients.dxy, "/chart/DX-Y.NYB", "dxy_chart.json", sample_payloads.dxy_chart(NOW)),
    "gamma": (clients.gamma, "/levels", "gamma_levels.json", sample_payloads.gamma_levels(NOW)),
    "legacy_capture": (clients.legacy_capture, "/ultimo-dado", "ultimo_dado.json", sample_payloads.capture(NOW)),
    "legacy_gamma": (clients.legacy_gamma, "/gamma", "gamma.json", sample_payloads.gamma_levels(NOW)),
}
GARBLED = pytest.mark.parametrize(("fetch", "path"), [case[:2] for case in CASES.values()], ids=list(CASES))


@pytest.mark.parametrize(("fetch", "path", "name", "data"), CASES.values(), ids=list(CASES))
def test_a_payload_is_fetched_as_it_is_with_all_that_is_known_of_it(
    httpserver: HTTPServer, settings: Settings, fetch: Fetch, path: str, name: str, data: bytes
) -> None:
    httpserver.expect_request(path).respond_with_data(data, headers={"ETag": '"1"', "Content-Type": "x/y"})
    assert asking(fetch, settings) == Fetched(name, data, httpserver.url_for(path), 200, DAY, '"1"', None, "x/y")


@pytest.mark.parametrize(("fetch", "path", "name", "data"), CASES.values(), ids=list(CASES))
def test_the_same_bytes_again_are_unchanged(
    httpserver: HTTPServer, settings: Settings, fetch: Fetch, path: str, name: str, data: bytes
) -> None:
    httpserver.expect_request(path).respond_with_data(data)
    with pytest.raises(Unchanged):
        asking(fetch, settings, Asked(NOW, DAY, sha256=hashlib.sha256(data).hexdigest()))


@GARBLED
@pytest.mark.parametrize(
    "body", [b"", b"<html>ocupado</html>", b'{"gammalevels": {"time', b"PK\x03\x04half", b"x" * (2 << 20)]
)
def test_a_garbled_answer_is_refused_by_every_client(
    httpserver: HTTPServer, settings: Settings, fetch: Fetch, path: str, body: bytes
) -> None:
    httpserver.expect_request(path).respond_with_data(body)
    with pytest.raises(Refused) as refused:
        asking(fetch, changed(settings, http_max_mb=1))
    assert body.startswith(refused.value.data)


@GARBLED
@pytest.mark.parametrize(
    ("status", "error"),
    [(404, Unreachable), (304, Unchanged), (403, CredentialsRefused), (429, Unreachable), (500, Unreachable)],
)
def test_an_answer_without_data_says_what_it_means(
    httpserver: HTTPServer, settings: Settings, fetch: Fetch, path: str, status: int, error: type[Exception]
) -> None:
    httpserver.expect_request(path).respond_with_data(b"", status=status)
    if fetch is clients.settlements and status == 404:  # each day's has an address of its own
        error = NotYet
    with pytest.raises(error) as caught:
        asking(fetch, settings)
    assert SECRET not in f"{caught.value!r}"


def test_the_real_report_over_http_gives_the_known_settlement(
    httpserver: HTTPServer, settings: Settings, shared: Path
) -> None:
    data = (shared / "data" / "b3" / "SPRD260112.zip").read_bytes()
    httpserver.expect_request("/pesquisapregao/download", query_string="filelist=SPRD260112.zip").respond_with_data(
        data
    )
    fetched = asking(clients.settlements, settings)
    (chunk,) = kinds.REPORT.parse(io.BytesIO(fetched.data), TABLES["b3_adjustments"]).chunks
    (row,) = (r for r in chunk.records.to_pylist() if (r["instrument"], r["contract_month"]) == ("DI1", "G26"))
    assert (row["price_settlement"], row["settlement_rate"], row["trade_date"]) == (99176.82, 14.897, DAY)
    assert (fetched.session, chunk.records.num_rows, chunk.rejects) == (DAY, 155, [])


def test_yesterdays_report_under_todays_name_is_not_taken(
    httpserver: HTTPServer, settings: Settings, shared: Path
) -> None:
    httpserver.expect_request("/pesquisapregao/download", query_string="filelist=SPRD260113.zip").respond_with_data(
        (shared / "data" / "b3" / "SPRD260112.zip").read_bytes()
    )
    with pytest.raises(NotYet, match="is of 2026-01-12, not of 2026-01-13"):
        asking(clients.settlements, settings, Asked(NOW, date(2026, 1, 13)))
    with pytest.raises(Refused, match="is of 2026-01-12, not of 2026-01-13"):
        asking(clients.settlements, settings, Asked(NOW, date(2026, 1, 13), due=NOW))


@pytest.mark.parametrize("conditional", sorted(CASES))
def test_what_is_overwritten_is_asked_for_only_if_it_changed_and_what_is_dated_always(
    httpserver: HTTPServer, settings: Settings, conditional: str
) -> None:
    fetch, path, _, data = CASES[conditional]
    httpserver.expect_request(path).respond_with_data(data)
    asking(fetch, settings, Asked(NOW, DAY, '"1"', "Mon, 12 Jan 2026 22:25:00 GMT"))
    ((request, _),) = httpserver.log
    expected = None if conditional in ("settlements", "dxy") else '"1"'
    assert request.headers.get("If-None-Match") == expected


def test_the_chart_of_an_older_session_is_asked_for_by_its_day(httpserver: HTTPServer, settings: Settings) -> None:
    httpserver.expect_request("/chart/DX-Y.NYB").respond_with_data(sample_payloads.dxy_chart(NOW))
    asking(clients.dxy, settings)
    asking(clients.dxy, settings, Asked(NOW, date(2026, 1, 9)))
    today, older = (parse_qs(request.query_string.decode()) for request, _ in httpserver.log)
    assert today == {"interval": ["5m"], "range": ["1d"]}
    assert older == {"interval": ["5m"], "period1": ["1767927600"], "period2": ["1768014000"]}
    assert datetime.fromtimestamp(1767927600, UTC) == datetime(2026, 1, 9, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("user", "header"),
    [("desk", f"Basic {b64encode(f'desk:{SECRET}'.encode()).decode()}"), (None, f"Bearer {SECRET}")],
)
def test_gamma_levels_are_asked_for_with_a_password_or_a_token(
    httpserver: HTTPServer, settings: Settings, user: str | None, header: str
) -> None:
    httpserver.expect_request("/levels", headers={"Authorization": header}).respond_with_data(
        sample_payloads.gamma_levels(NOW)
    )
    fetched = asking(clients.gamma, changed(settings, gamma_user=user, gamma_secret=SecretStr(f"{SECRET}\n")))
    assert SECRET not in f"{fetched}{settings}"


def test_wrong_credentials_are_told_without_showing_them(httpserver: HTTPServer, settings: Settings) -> None:
    httpserver.expect_request("/levels").respond_with_data(SECRET, status=401)
    with pytest.raises(CredentialsRefused, match="look at B3_GAMMA_USER, B3_GAMMA_SECRET") as error:
        asking(clients.gamma, settings)
    assert SECRET not in f"{error.value!r}"
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gamma_url": None}, "set B3_GAMMA_URL"),
        ({"gamma_secret": None}, "B3_GAMMA_SECRET"),
        ({"gamma_url": "http://gamma.example/levels"}, "must begin with https"),
        ({"gamma_user": None, "gamma_secret": SecretStr(f"{SECRET}\r\nX: 1")}, "is no token"),
        ({"gamma_user": None, "gamma_secret": SecretStr(f"{SECRET}é")}, "is no token"),
    ],
)
def test_nobody_is_asked_for_gamma_levels_without_a_secret_that_stays_one(
    httpserver: HTTPServer, settings: Settings, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(Unreachable, match=said) as error:
        asking(clients.gamma, changed(settings, **given))
    assert SECRET not in f"{error.value!r}"
    assert httpserver.log == []


def test_without_an_address_there_is_no_legacy_server_to_ask(settings: Settings) -> None:
    for fetch in (clients.legacy_capture, clients.legacy_gamma):
        with pytest.raises(Unreachable, match="B3_LEGACY_URL"):
            asking(fetch, changed(settings, legacy_url=None))


@pytest.mark.parametrize(
    "url",
    [
        "b3.com.br",
        "ftp://b3.com.br",
        "https://",
        f"https://desk:{SECRET}@b3.com.br",
        f"https://b3.com.br/?apiKey={SECRET}",
        "https://b3.com.br/#x",
        "https://b3.com.br:99999999",
    ],
)
def test_an_address_with_a_secret_in_it_is_no_setting(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError) as error:
        Settings(home=tmp_path, gamma_url=url)
    assert SECRET not in str(error.value.errors(include_input=False, include_context=False))


def test_by_default_the_real_addresses_are_asked() -> None:
    fields = Settings.model_fields
    assert (
        fields["settlements_url"].default == "https://www.b3.com.br/pesquisapregao/download?filelist=SPRD{yymmdd}.zip"
    )
    assert fields["indicators_url"].default.endswith("/GetFinancialIndicators/eyJsYW5ndWFnZSI6InB0LWJyIn0=")
    assert "DX-Y.NYB" in fields["dxy_url"].default
    assert all(
        fields[f"{name}_url"].default.startswith("https://")
        for name in ("settlements", "indicators", "vol_surface", "dxy")
    )


# Probes


def probing(settings: Settings, source: str = "gamma_levels") -> Probe:
    found = probe(SOURCES[source], settings)
    assert SECRET not in f"{found}"
    return found


def test_a_probe_asks_with_the_credentials_and_takes_no_more_than_the_head(
    httpserver: HTTPServer, settings: Settings
) -> None:
    httpserver.expect_request(
        "/levels", headers={"Authorization": f"Basic {b64encode(f'desk:{SECRET}'.encode()).decode()}"}
    ).respond_with_data(b"whatever it is", content_type="application/json")
    assert probing(settings) == Probe(True, f"{httpserver.url_for('/levels')} answers")


@pytest.mark.parametrize(
    ("status", "ok", "found", "advice"),
    [
        (401, False, "credentials refused: look at B3_GAMMA_USER, B3_GAMMA_SECRET", "Correct the credentials"),
        (500, False, "answered 500", "Look at the network"),
        (404, False, "is not there", "the source's B3_…_URL"),
        (304, True, "answers 304", ""),
    ],
)
def test_a_probe_says_what_is_wrong_and_what_to_do(
    httpserver: HTTPServer, settings: Settings, status: int, ok: bool, found: str, advice: str
) -> None:
    httpserver.expect_request("/levels").respond_with_data(b"", status=status)
    result = probing(settings)
    assert (result.ok, len(httpserver.log)) == (ok, 1)
    assert found in result.found
    assert advice in result.advice


def test_a_dated_report_that_is_not_there_yet_is_no_failure_of_a_probe(
    httpserver: HTTPServer, settings: Settings
) -> None:
    httpserver.expect_request("/pesquisapregao/download").respond_with_data(b"", status=404)
    result = probing(settings, "settlement_report")
    assert result.ok
    assert "is not there" in result.found


def test_a_page_in_the_place_of_data_is_no_answer_to_a_probe(httpserver: HTTPServer, settings: Settings) -> None:
    httpserver.expect_request("/surface.zip").respond_with_data(b"<html>", content_type="text/html; charset=utf-8")
    result = probing(settings, "vol_surface")
    assert not result.ok
    assert "HTML page" in result.found


def test_a_probe_of_a_source_with_missing_settings_names_them(settings: Settings) -> None:
    assert "B3_GAMMA_SECRET" in probing(changed(settings, gamma_secret=None)).found


@pytest.mark.parametrize("source", [name for name, source in SOURCES.items() if source.fetch])
def test_every_source_that_is_fetched_can_be_probed(httpserver: HTTPServer, settings: Settings, source: str) -> None:
    httpserver.expect_request("").respond_with_data(b"{}", content_type="application/json")
    for _, path, _, _ in CASES.values():
        httpserver.expect_request(path).respond_with_data(b"{}", content_type="application/json")
    assert probing(settings, source).ok


def test_a_source_in_a_folder_is_looked_for_there(settings: Settings, tmp_path: Path) -> None:
    by_file = changed(settings, legacy_dir=tmp_path)
    assert not probing(by_file, "ultimo_dado").ok
    (tmp_path / "ultimo_dado.json").write_text("{}")
    assert probing(by_file, "ultimo_dado").ok
    assert probing(settings, "composed_capture").ok


def test_a_client_is_a_fetch() -> None:
    fetches: list[Callable[..., Fetched]] = [case[0] for case in CASES.values()]
    assert {source.fetch for source in SOURCES.values() if source.fetch} == set(fetches)
