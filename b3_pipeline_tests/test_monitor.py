from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from pytest_httpserver import HTTPServer

from b3_pipeline import monitor as monitoring
from b3_pipeline.alerts import spool, watching
from b3_pipeline.alerts.channels import configured
from b3_pipeline.alerts.conditions import Condition
from b3_pipeline.alerts.engine import Rules
from b3_pipeline.alerts.outbox import Outbox, Pauses
from b3_pipeline.errors import B3Error
from b3_pipeline.metrics import files, instruments
from b3_pipeline.monitor import Monitor
from b3_pipeline.ports import HOST
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline_tests.alerts.conftest import PARITY, Clock, condition
from b3_pipeline_tests.alerts.servers import Hooks, Mailbox, mailbox
from b3_pipeline_tests.metrics.conftest import counted
from b3_pipeline_tests.waiting import until

QUICK = Pauses(first_s=0.02, longest_s=0.1)


@dataclass
class Desk:
    """A monitor with four channels to real servers; the test makes its turns, the couriers work by themselves."""

    settings: Settings
    monitor: Monitor
    hooks: Hooks
    mails: Mailbox
    seen: list[Condition]

    def give(self, *conditions: Condition) -> None:
        spool.put(self.settings.home, conditions)
        self.turn()

    def turn(self) -> None:
        """Enough turns for what was taken in to be told: groups and hold times are zero here."""
        for _ in range(3):
            self.monitor.turn()

    def told(self) -> dict[str, list[tuple[str, str]]]:
        """By channel, event and name of all that it got, in order."""
        alertmanager = [alert for posted in self.hooks.posted[Hooks.ALERTMANAGER] for alert in posted]
        webhook = [alert for posted in self.hooks.posted[Hooks.WEBHOOK] for alert in posted["alerts"]]
        slack = [section(block) for posted in self.hooks.posted[Hooks.SLACK] for block in posted["blocks"][1:]]
        return {
            "webhook": [(alert["event"], alert["name"]) for alert in webhook],
            "slack": [event_of(text) for text in slack],
            "email": [event_of(str(mail["Subject"])) for mail in self.mails.mails],
            "alertmanager": [
                ("recovered" if alert["endsAt"] < now() else "opened", alert["labels"]["name"])
                for alert in alertmanager
            ],
        }

    def until_told(self, *events: tuple[str, str], channels: tuple[str, ...] = ()) -> None:
        until(lambda: all(self.told()[name] == [*events] for name in channels or self.told()), seconds=30)


def now() -> str:
    return watching.real_now().isoformat()


def section(block: dict[str, Any]) -> str:
    return block["text"]["text"].splitlines()[0].strip("*")


def event_of(heading: str) -> tuple[str, str]:
    """Event and name in a heading as `[ERROR] check NAME`, `[RECOVERED] check NAME: right again`."""
    word, _kind, name = heading.split(":  ")[0].split(" ", 2)
    return "recovered" if word == "[RECOVERED]" else "opened", name.removesuffix(": right again")


@pytest.fixture
def desk(tmp_path: Path, httpserver: HTTPServer, port_base: int) -> Iterator[Desk]:
    hooks = Hooks(httpserver)
    with mailbox(port_base + 1) as mails:
        settings = Settings(
            home=tmp_path / "home",
            port_base=port_base,
            alert_webhook_url=SecretStr(hooks.base + Hooks.WEBHOOK),
            alert_slack_url=SecretStr(hooks.base + Hooks.SLACK),
            alert_smtp_url=SecretStr(f"smtp://{HOST}:{port_base + 1}"),
            alert_email_to=["desk@x.com"],
            alert_alertmanager_url=SecretStr(hooks.base),
        )
        instruments.ready(settings)
        channels, broken = configured(settings)
        rules = Rules(group_s=0, hold_s=0)
        outbox = Outbox(settings.home, channels, rules, watching.real_now, broken, QUICK)
        seen: list[Condition] = []
        monitor = Monitor(settings, lambda: seen, outbox)
        outbox.start()
        yield Desk(settings, monitor, hooks, mails, seen)
        outbox.stop(10)
        instruments.stop()


def test_red_gives_one_alert_on_each_of_four_channels_and_green_one_recovery(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk.give(condition(True))
    desk.until_told(("opened", PARITY))
    desk.give(condition(True))
    desk.give(condition(True), condition(True))
    desk.give(condition(False))
    desk.until_told(("opened", PARITY), ("recovered", PARITY))
    desk.give(condition(False))
    desk.turn()
    assert {len(events) for events in desk.told().values()} == {2}
    log = (desk.settings.home / "logs" / "alerts.log").read_text()
    assert [line.split()[1] for line in log.splitlines()] == ["[ERROR]", "[RECOVERED]"]
    assert counted(desk.settings.home)["b3_alert_deliveries_total", "slack", "sent"] == 2
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("werkzeug")]
    written = [path.read_text(errors="replace") for path in desk.settings.home.rglob("*") if path.is_file()]
    assert not any("s3cret" in text for text in [*ours, *written]), "no address in any log or file"


def test_alerts_of_one_moment_are_one_message_on_each_channel(desk: Desk) -> None:
    desk.give(*(condition(True, name) for name in "abc"))
    until(lambda: desk.hooks.posted[Hooks.WEBHOOK] and desk.mails.mails)
    assert len(desk.hooks.posted[Hooks.WEBHOOK]) == 1
    assert [mail["Subject"] for mail in desk.mails.mails] == ["[ERROR] 3 alerts: 3 ERROR"]


def test_a_channel_that_answers_500_is_told_of_on_the_others_and_gets_its_message_when_it_is_back(desk: Desk) -> None:
    desk.hooks.status = {Hooks.SLACK: 500}
    others = ("webhook", "email", "alertmanager")
    desk.give(condition(True))
    until(lambda: desk.hooks.tries.get(Hooks.SLACK, 0) > 3)
    desk.turn()
    desk.until_told(("opened", PARITY), ("opened", "slack"), channels=others)
    assert desk.told()["slack"] == []
    assert not desk.monitor.outbox.channels()["slack"]["up"]
    del desk.hooks.status[Hooks.SLACK]
    desk.until_told(("opened", PARITY), channels=("slack",))
    until(lambda: desk.monitor.outbox.channels()["slack"]["up"])
    desk.turn()
    desk.until_told(("opened", PARITY), ("opened", "slack"), ("recovered", "slack"), channels=others)
    assert desk.told()["slack"] == [("opened", PARITY)], "never of itself"
    found = counted(desk.settings.home)
    assert found["b3_alert_deliveries_total", "slack", "failed"] >= 3
    assert found["b3_alert_deliveries_total", "slack", "sent"] == 1


def test_what_the_watch_sees_is_told_once_however_often_it_is_seen(desk: Desk) -> None:
    down = condition(True, "questdb", kind="service")
    for _ in range(5):
        desk.seen[:] = [down.model_copy(update={"id": os.urandom(8).hex()})]
        desk.monitor.look()
        desk.turn()
    desk.until_told(("opened", "questdb"))
    desk.seen[:] = [condition(False, "questdb", kind="service")]
    desk.monitor.look()
    desk.turn()
    desk.until_told(("opened", "questdb"), ("recovered", "questdb"))


def test_nothing_that_goes_wrong_ends_the_monitor(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(monitoring.spool, "take", broken)
    monkeypatch.setattr(desk.monitor.outbox, "conditions", broken)
    desk.turn()
    assert desk.monitor.healthy()
    assert (desk.settings.home / "monitor" / "heartbeat.json").exists()
    monkeypatch.undo()
    desk.give(condition(True))
    desk.until_told(("opened", PARITY))


def test_a_condition_waits_in_the_spool_until_it_is_safe(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(desk.monitor.outbox, "_save", lambda: False)
        desk.give(condition(True))
        assert len(spool.take(desk.settings.home).conditions) == 1
    desk.turn()
    assert spool.take(desk.settings.home).conditions == []
    desk.until_told(("opened", PARITY))


def test_the_monitor_merges_what_dead_processes_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    instruments.retried("dxy")
    instruments.stop()
    instruments.ready(desk.settings)
    monkeypatch.setattr(monitoring, "MERGE_S", 0)
    desk.turn()
    assert (desk.settings.home / files.FOLDER / "kept.json").exists()
    assert counted(desk.settings.home)["b3_fetch_retries_total", "dxy"] == 1


def test_the_same_line_is_logged_seldom() -> None:
    clock = Clock()
    seldom = monitoring.Seldom(clock.monotonic)
    full, other = (logging.makeLogRecord({"msg": text}) for text in ("disk full", "other"))
    assert [seldom.filter(record) for record in (full, full, other, full)] == [True, False, True, False]
    clock.turn(monitoring.AGAIN_S)
    assert seldom.filter(full)


def test_suspended_tables_are_asked_of_questdb(home: Path, db: QuestDB) -> None:
    assert monitoring.wal_suspended(Settings())["b3_adjustments"] is False


def test_without_questdb_nothing_is_known_of_its_tables(tmp_path: Path) -> None:
    with pytest.raises(B3Error, match="QuestDB"):
        monitoring.wal_suspended(Settings(home=tmp_path))


def test_the_process_serves_metrics_delivers_and_ends_when_it_is_told_to(
    tmp_path: Path, httpserver: HTTPServer, port_base: int
) -> None:
    hooks, folder = Hooks(httpserver), tmp_path / "home"
    env = {
        **os.environ,
        "B3_HOME": str(folder),
        "B3_PORT_BASE": str(port_base),
        "B3_ALERT_WEBHOOK_URL": hooks.base + Hooks.WEBHOOK,
        "B3_ALERT_GROUP_S": "0",
        "B3_ALERT_HOLD_S": "0",
    }
    spool.put(folder, [condition(True), condition(False, "green")])
    command = [sys.executable, "-m", "b3_pipeline.monitor"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: hooks.posted[Hooks.WEBHOOK] or process.poll() is not None)
            assert hooks.posted[Hooks.WEBHOOK][0]["alerts"][0]["name"] == PARITY
            base = f"http://{HOST}:{port_base + 5}"
            assert httpx2.get(f"{base}/health", trust_env=False).text == "ok\n"
            until(lambda: "b3_service_up{" in httpx2.get(f"{base}/metrics", trust_env=False).text)
            metrics = httpx2.get(f"{base}/metrics", trust_env=False).text
            assert 'b3_alerts_open{severity="ERROR"} 1.0' in metrics
            assert 'b3_service_up{service="questdb"} 0.0' in metrics
            assert 'b3_heartbeat_age_seconds{process="monitor"}' in metrics
            assert "b3_disk_free_bytes " in metrics
            another = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            assert another.returncode == 1
            assert "Another monitor runs" in another.stderr
        finally:
            process.send_signal(signal.SIGTERM)
        errors = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0, errors
    assert "s3cret" not in errors
