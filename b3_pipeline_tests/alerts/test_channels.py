from __future__ import annotations

import logging
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pytest_httpserver import HTTPServer

from b3_pipeline.alerts import channels, probe
from b3_pipeline.alerts.channels import Alertmanager, Email, LogFile, Slack, Undelivered, Webhook, configured
from b3_pipeline.alerts.engine import Alert, Event, Message, Notice
from b3_pipeline.ports import HOST
from b3_pipeline.settings import Settings
from b3_pipeline_tests.alerts.conftest import NOON, PARITY
from b3_pipeline_tests.alerts.servers import Hooks, mailbox

BASE = "http://127.0.0.1:8801"


def notice(event: Event = "opened", **given: Any) -> Notice:
    said: dict[str, Any] = {
        "kind": "check",
        "name": PARITY,
        "severity": "ERROR",
        "what": "3 keys are missing, <b> & more.",
        "what_to_do": "`b3 validate --repair`",
        "link": "/assets/b3_adjustments?view=checks",
        "since": NOON,
        "opened": NOON,
        "reminded": NOON,
        "last_seen": NOON,
        **given,
    }
    return Notice(event=event, alert=Alert.model_validate(said), channels=[])


def message(*notices: Notice, lost: int = 0) -> Message:
    return Message(id="0123", at=NOON, notices=list(notices) or [notice()], lost=lost)


@pytest.fixture
def hooks(httpserver: HTTPServer) -> Hooks:
    return Hooks(httpserver)


def secret(text: str) -> SecretStr:
    return SecretStr(text)


def test_a_webhook_gets_all_that_is_known_as_json(hooks: Hooks) -> None:
    Webhook(secret(hooks.base + Hooks.WEBHOOK), BASE, "WARN").send(message(notice(count=4, flaps=1)))
    [posted] = hooks.posted[Hooks.WEBHOOK]
    assert posted["id"] == "0123"
    assert posted["severity"] == "ERROR"
    assert posted["title"] == f"[ERROR] check {PARITY}"
    [alert] = posted["alerts"]
    assert alert == {
        "event": "opened",
        "key": f"check:{PARITY}",
        "kind": "check",
        "name": PARITY,
        "severity": "ERROR",
        "what": "3 keys are missing, <b> & more.",
        "what_to_do": "`b3 validate --repair`",
        "since": "2025-10-14T15:00:00Z",
        "until": None,
        "count": 4,
        "flaps": 1,
        "link": f"{BASE}/assets/b3_adjustments?view=checks",
    }
    for part in (
        "Since 2025-10-14 15:00:00 UTC (14/10 12:00 Brasília)",
        "seen 4 times",
        "What to do: `b3 validate --repair`",
        f"{BASE}/assets/b3_adjustments?view=checks",
    ):
        assert part in posted["text"]


def test_slack_gets_text_and_blocks_with_its_own_signs_escaped(hooks: Hooks) -> None:
    channel = Slack(secret(hooks.base + Hooks.SLACK), BASE, "WARN")
    channel.send(message(notice(), notice("recovered", name="b", recovered=NOON), lost=2))
    [posted] = hooks.posted[Hooks.SLACK]
    assert posted["text"] == "[ERROR] 2 alerts: 1 ERROR, 1 RECOVERED"
    assert [block["type"] for block in posted["blocks"]] == ["header", "section", "section", "context"]
    section = posted["blocks"][1]["text"]["text"]
    assert "&lt;b&gt; &amp; more" in section
    assert f"<{BASE}/assets/b3_adjustments?view=checks|Open in Dagster>" in section
    assert "2 earlier messages" in posted["blocks"][3]["elements"][0]["text"]


def test_slack_takes_the_longest_message_that_there_may_be(hooks: Hooks) -> None:
    long = notice(what="x" * 1_000, what_to_do="y" * 1_000, link="/" + "z" * 300, name="n" * 200)
    Slack(secret(hooks.base + Hooks.SLACK), BASE, "WARN").send(message(*[long] * 20, lost=1))
    [posted] = hooks.posted[Hooks.SLACK]
    assert len(posted["blocks"]) <= 50, "Slack's own limits"
    assert max(len(block["text"]["text"]) for block in posted["blocks"] if "text" in block) <= 3_000


def test_alertmanager_gets_beginning_and_end(hooks: Hooks) -> None:
    channel = Alertmanager(secret(hooks.base + "/"), BASE, "WARN")
    channel.send(message(notice()))
    channel.send(message(notice("recovered", recovered=NOON)))
    [opened], [ended] = hooks.posted[Hooks.ALERTMANAGER]
    assert opened["labels"] == ended["labels"] == {
        "alertname": "B3Check", "name": PARITY, "severity": "critical", "instance": "127.0.0.1:8801",
    }  # fmt: skip
    assert opened["annotations"]["description"] == "3 keys are missing, <b> & more."
    assert opened["generatorURL"].startswith(BASE)
    now = datetime.now(UTC)
    assert datetime.fromisoformat(opened["startsAt"]) == NOON
    assert datetime.fromisoformat(opened["endsAt"]) > now + timedelta(minutes=5)
    assert NOON <= datetime.fromisoformat(ended["endsAt"]) <= now


def test_alertmanager_learns_that_what_got_worse_is_no_more_what_it_was(hooks: Hooks) -> None:
    Alertmanager(secret(hooks.base), BASE, "WARN").send(message(notice("escalated")))
    [[worse, before]] = hooks.posted[Hooks.ALERTMANAGER]
    assert (worse["labels"]["severity"], before["labels"]["severity"]) == ("critical", "warning")
    assert before["endsAt"] < worse["endsAt"]


def test_an_alert_that_pretends_to_be_of_the_future_still_ends_after_it_began(hooks: Hooks) -> None:
    future = datetime.now(UTC) + timedelta(days=400)
    channel = Alertmanager(secret(hooks.base), BASE, "WARN")
    channel.send(message(notice("recovered", since=future, opened=future, recovered=future)))
    [[ended]] = hooks.posted[Hooks.ALERTMANAGER]
    assert ended["startsAt"] <= ended["endsAt"]


def test_a_mail_has_subject_text_and_a_name_of_its_own(port_base: int) -> None:
    with mailbox(port_base) as box:
        channel = Email(secret(f"smtp://{HOST}:{port_base}"), BASE, ("a@x.com", "b@x.com"), "b3@x.com", "WARN")
        channel.send(message(notice(what="Preço: 3 chaves.\nBcc: c@x.com")))
    [mail] = box.mails
    assert mail["Subject"] == f"[ERROR] check {PARITY}"
    assert (mail["From"], mail["To"], mail["Bcc"]) == ("b3@x.com", "a@x.com, b@x.com", None)
    assert mail["Message-ID"] == "<0123@b3-pipeline>"
    body = mail.get_content()
    assert "Preço: 3 chaves." in body
    assert "12:00 Brasília" in body


def test_a_mail_server_is_logged_in_to_and_its_password_is_percent_decoded(port_base: int) -> None:
    with mailbox(port_base, with_login=True) as box:
        url = f"smtp://desk:p%40ss%20word@{HOST}:{port_base}"
        Email(secret(url), BASE, ("a@x.com",), "b3@x.com", "WARN").send(message())
    assert len(box.mails) == 1
    assert box.logins == [("desk", "p@ss word")]


def test_a_wrong_password_is_said_and_not_shown(port_base: int) -> None:
    with mailbox(port_base, with_login=True):
        url = f"smtp://desk:s3cret@{HOST}:{port_base}"
        with pytest.raises(Undelivered, match=r"refused user or password \(535\)") as caught:
            Email(secret(url), BASE, ("a@x.com",), "b3@x.com", "WARN").send(message())
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_password_is_not_sent_without_tls_to_another_machine(monkeypatch: pytest.MonkeyPatch, port_base: int) -> None:
    monkeypatch.setattr(channels, "_is_here", lambda host: False)
    with mailbox(port_base, with_login=True) as box, pytest.raises(Undelivered, match="has no TLS"):
        Email(secret(f"smtp://desk:p%40ss%20word@{HOST}:{port_base}"), BASE, ("a@x.com",), "b@x.com", "WARN").send(
            message()
        )
    assert box.logins == []


@pytest.mark.parametrize(
    ("answer", "refused", "why", "never"),
    [
        ("451 later", "", "answered 451", False),
        ("554 spam", "", "answered 554", True),
        ("250 ok", "550 s3cret nobody", "took no recipient", True),
        ("250 ok", "450 s3cret greylisted", "took no recipient", False),
    ],
)
def test_what_a_mail_server_will_never_take_is_told_from_what_it_will_later(
    port_base: int, answer: str, refused: str, why: str, never: bool
) -> None:
    with mailbox(port_base) as box:
        box.answer, box.refused = answer, refused
        with pytest.raises(Undelivered, match=why) as caught:
            Email(secret(f"smtp://{HOST}:{port_base}"), BASE, ("a@x.com",), "b@x.com", "WARN").send(message())
    assert caught.value.refused == never
    assert "s3cret" not in str(caught.value)


def test_that_a_mail_server_refuses_some_recipients_is_said_without_their_addresses(
    tmp_path: Path, port_base: int
) -> None:
    settings = Settings(
        home=tmp_path, alert_smtp_url=secret(f"smtp://{HOST}:{port_base}"), alert_email_to=["a@x.com", "s3cret@x.com"]
    )
    with mailbox(port_base) as box:
        box.refused, box.only = "550 s3cret@x.com is nobody", "s3cret@x.com"
        [_log, (name, works, why)] = probe.test_channels(settings)
    assert len(box.mails) == 1
    assert (name, works, why) == ("email", False, f"smtp://{HOST} refused 1 of 2 recipients ([550])")


@pytest.mark.parametrize(("status", "never"), [(500, False), (404, False), (301, False), (429, False), (400, True)])
def test_what_a_server_answers_is_told_without_its_words_or_address(hooks: Hooks, status: int, never: bool) -> None:
    hooks.status = dict.fromkeys(hooks.posted, status)
    hooks.headers = {"Location": hooks.base + Hooks.SLACK, "Retry-After": "17"}
    with pytest.raises(Undelivered) as caught:
        Webhook(secret(hooks.base + Hooks.WEBHOOK), BASE, "WARN").send(message())
    assert str(caught.value) == f"http://127.0.0.1 answered {status}"
    assert caught.value.refused == never
    assert caught.value.wait_s == 17
    assert hooks.tries == {Hooks.WEBHOOK: 1}, "no redirect is followed"


def test_nobody_there_and_nobody_answering_are_told(monkeypatch: pytest.MonkeyPatch, port_base: int) -> None:
    monkeypatch.setattr(channels, "TIMEOUT_S", 0.2)
    url = f"http://user:s3cret@{HOST}:{port_base}/s3cret"
    mail = Email(secret(f"smtp://user:s3cret@{HOST}:{port_base}"), BASE, ("a@x.com",), "b@x.com", "WARN")
    for channel in (Webhook(secret(url), BASE, "WARN"), mail):
        with pytest.raises(Undelivered, match="cannot be reached") as caught:
            channel.send(message())
        assert "s3cret" not in str(caught.value)
    with socket.create_server((HOST, port_base)):
        for channel in (Webhook(secret(url), BASE, "WARN"), mail):
            with pytest.raises(Undelivered, match="did not answer") as caught:
                channel.send(message())
            assert "s3cret" not in str(caught.value)


def test_the_clients_log_names_no_address(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Webhook(secret(hooks.base + Hooks.WEBHOOK), BASE, "WARN").send(message())
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("werkzeug")]
    assert not any("s3cret" in line for line in ours)


def test_the_log_has_every_message_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "alerts.log", BASE)
    log.send(message())
    log.send(message(notice("recovered", recovered=NOON)))
    lines = log.path.read_text("utf-8").splitlines()
    assert lines[0].startswith(f"2025-10-14T15:00:00Z [ERROR] check {PARITY} | 3 keys are missing")
    assert "[RECOVERED]" in lines[1]
    assert "Right again since 2025-10-14 15:00:00 UTC" in lines[1]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_log_that_cannot_be_written_is_a_failing_channel(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(Undelivered, match="cannot be written"):
        LogFile(tmp_path / "logs" / "alerts.log", BASE).send(message())


# Settings


def named(**given: Any) -> tuple[list[str], dict[str, str]]:
    found, problems = configured(Settings(home=Path("/nowhere"), **given))
    return [channel.name for channel in found], problems


def test_without_any_setting_alerts_go_to_the_log() -> None:
    assert named() == (["log"], {})


def test_each_channel_has_its_settings() -> None:
    found, problems = configured(
        Settings(
            home=Path("/nowhere"),
            alert_webhook_url=secret("https://example.com/x"),
            alert_slack_url=secret("https://example.com/y"),
            alert_slack_min_severity="ERROR",
            alert_smtp_url=secret("smtps://u:p@example.com"),
            alert_email_to=["a@x.com"],
            alert_alertmanager_url=secret("http://example.com:9093"),
        )
    )
    assert problems == {}
    severities = {channel.name: channel.min_severity for channel in found}
    assert severities == {"log": "WARN", "webhook": "WARN", "slack": "ERROR", "email": "WARN", "alertmanager": "WARN"}
    assert not any("example.com/x" in repr(channel) for channel in found)


@pytest.mark.parametrize("url", ["hooks.example.com/s3cret", "ftp://x/s3cret", "https:///s3cret", "http://[s3cret", ""])
def test_an_address_that_is_none_is_said_and_not_shown(url: str) -> None:
    names, problems = named(alert_slack_url=secret(url))
    assert names == ["log"]
    assert "B3_ALERT_SLACK_URL must be" in problems["slack"]
    assert "s3cret" not in problems["slack"]


@pytest.mark.parametrize(
    ("url", "to", "why"),
    [
        ("smtp://u:s3/cret@example.com:25", ["a@x.com"], "must look like"),
        ("smtp://u:s3#cret@example.com", ["a@x.com"], "must look like"),
        ("http://example.com", ["a@x.com"], "must look like"),
        ("smtp://example.com", [], "nobody to write to"),
        ("smtp://example.com", ["a@x.com\nBcc: b@x.com"], "no e-mail address"),
    ],
)
def test_mail_settings_that_cannot_be_used_are_said(url: str, to: list[str], why: str) -> None:
    names, problems = named(alert_smtp_url=secret(url), alert_email_to=to)
    assert names == ["log"]
    assert why in problems["email"]
    assert "s3" not in problems["email"]


def test_links_lead_to_where_people_open_dagster(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, public_url="https://b3.example.com/dagster/")
    [log] = configured(settings)[0]
    log.send(message())
    assert "https://b3.example.com/dagster/assets/b3_adjustments" in (tmp_path / "logs" / "alerts.log").read_text()


# b3 doctor --alerts


def test_the_test_goes_to_every_channel_and_says_which_works(hooks: Hooks, tmp_path: Path, port_base: int) -> None:
    hooks.status = {Hooks.SLACK: 403}
    with mailbox(port_base) as box:
        found = probe.test_channels(
            Settings(
                home=tmp_path,
                alert_webhook_url=secret(hooks.base + Hooks.WEBHOOK),
                alert_webhook_min_severity="ERROR",
                alert_slack_url=secret(hooks.base + Hooks.SLACK),
                alert_smtp_url=secret(f"smtp://{HOST}:{port_base}"),
                alert_email_to=["a@x.com"],
                alert_alertmanager_url=secret("no address"),
            )
        )
    assert found == [
        ("log", True, ""),
        ("webhook", True, ""),
        ("slack", False, "http://127.0.0.1 answered 403"),
        ("email", True, ""),
        ("alertmanager", False, "B3_ALERT_ALERTMANAGER_URL must be an address that begins with https:// (or http://)."),
    ]
    assert hooks.posted[Hooks.WEBHOOK][0]["title"] == "[TEST] channel test"
    assert box.mails[0]["Subject"] == "[TEST] channel test"
