"""`b3 export` and `b3 retention`, as a person or a script calls them: real servers, real loads, processes that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from b3_pipeline import home as home_module
from b3_pipeline.failpoints import VARIABLE
from b3_pipeline.places import Place, place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.tables import TABLES, Table
from b3_pipeline.warehouse import exports
from b3_pipeline.warehouse.exports import manifests, partitions, read, rows_of
from b3_pipeline.warehouse.retention import RESTORE_STEPS, STEPS
from b3_pipeline_tests.cli.commands import answer, b3
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.warehouse.made_rows import made, store

SIGNALS, DELETED, CAPTURES, TICKS = (
    TABLES[name] for name in ("tp_capital_signals", "tp_capital_signals_deleted", "b3_captures", "b3_dxy_ticks")
)
TODAY, DAY = datetime(2025, 10, 14), timedelta(days=1)


@pytest.fixture
def home(home: Path, postgres: str) -> Iterator[Path]:
    """A home whose retention has done nothing yet, and leaves nothing to others."""

    def forget() -> None:
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute("drop table if exists b3.retention_log, b3.retention_holds, b3.retention_rules")
            db.execute("drop schema if exists warehouse cascade")

    forget()
    yield home
    forget()


@pytest.fixture
def here(home: Path) -> Place:
    return place(home / "exports")


def killed(step: str, *arguments: str) -> None:
    """Runs a command that ends itself at a named step, as `kill -9` would."""
    given = [sys.executable, "-m", "b3_pipeline", *arguments]
    child = subprocess.run(given, env={**os.environ, VARIABLE: step}, capture_output=True, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL, (step, child.stdout, child.stderr)


def rows(db: QuestDB, table: Table) -> list[dict[str, Any]]:
    db.wait_applied(table.name)
    return pa.concat_tables([table.arrow_schema().empty_table(), *rows_of(db, table, ALWAYS)]).to_pylist()


def captures(db: QuestDB) -> None:
    """Documents of three old days, and of today."""
    for days in (202, 201, 200, 0):
        store(db, CAPTURES, made(CAPTURES, TODAY - days * DAY + timedelta(hours=12), 5))


def test_every_table_with_closed_partitions_is_exported_and_verified(home: Path, db: QuestDB, here: Place) -> None:
    captures(db)
    store(db, TICKS, made(TICKS, TODAY - 40 * DAY, 9_000))
    result = answer("export")
    assert result["ok"]
    assert [(i["table"], i["name"], i["rows"], i["action"]) for i in result["items"]] == [
        ("b3_dxy_ticks", "2025-09", 5_555, "exported"),
        *(("b3_captures", f"2025-03-{day}", 5, "exported") for day in (26, 27, 28)),
    ]
    for item in result["items"]:
        [manifest] = [m for m in manifests(here, TABLES[item["table"]]).values() if m.partition == item["name"]]
        assert (item["bytes"], item["sha256"]) == (manifest.bytes, manifest.sha256)
        assert Path(item["path"]).is_file()
    assert [i["action"] for i in answer("export")["items"]] == ["unchanged"] * 4
    assert [i["action"] for i in answer("export", "--verify")["items"]] == ["verified"] * 4
    some = answer("export", "b3_captures", "--from", "2025-03-27", "--to", "2025-03-27")["items"]
    assert [i["name"] for i in some] == ["2025-03-27"]


def test_verify_finds_a_flipped_byte_a_missing_file_a_changed_table_and_what_has_no_export(
    home: Path, db: QuestDB, here: Place
) -> None:
    captures(db)
    answer("export")
    store(db, CAPTURES, made(CAPTURES, TODAY - 300 * DAY, 1))
    one, two, three = manifests(here, CAPTURES).values()
    data = bytearray(here.read(one.files[0].name))
    data[9] ^= 1
    here.write(one.files[0].name, bytes(data))
    here.remove(two.files[0].name)
    store(db, CAPTURES, made(CAPTURES, three.start + timedelta(hours=12), 1, salt=3))
    result = answer("export", "--verify", code=1)
    assert {i["name"]: i["action"] for i in result["items"]} == {
        "2024-12-18": "missing",
        one.partition: "damaged",
        two.partition: "damaged",
        three.partition: "changed",
    }
    assert one.files[0].name in next(i["why"] for i in result["items"] if i["name"] == one.partition)
    answer("export", "--again")
    assert answer("export", "--verify")["ok"]


@pytest.mark.parametrize(
    "arguments",
    [("export", "b3_typo"), ("export", "--from", "2025-02-01", "--to", "2025-01-01"), ("export", "--into", "x://y")],
)
def test_what_cannot_be_exported_is_said(arguments: tuple[str, ...], home: Path) -> None:
    result = answer(*arguments, code=1 if "--into" in arguments else 2)
    assert result["error"]


@pytest.mark.parametrize("step", some(exports.STEPS))
def test_an_export_that_is_killed_at_any_step_is_finished_by_the_next(
    step: str, home: Path, db: QuestDB, here: Place, tmp_path: Path
) -> None:
    captures(db)
    answer("export")
    store(db, CAPTURES, made(CAPTURES, TODAY - 201 * DAY + timedelta(hours=12), 2, salt=1))
    answer("export", "--into", tmp_path / "undisturbed")
    wanted = place(tmp_path / "undisturbed")
    killed(step, "export")
    for manifest in manifests(here, CAPTURES).values():  # what is named is whole at any moment
        assert exports.verify(here, manifest) == []
    answer("export")
    files = [name for name in here.names() if name.endswith(".parquet")]
    assert {name: here.sha256(name) for name in files} == {
        name: wanted.sha256(name) for name in wanted.names() if name.endswith(".parquet")
    }
    assert answer("export", "--verify")["ok"]


@pytest.mark.parametrize("step", some(STEPS))
def test_a_run_that_is_killed_at_any_step_is_finished_by_the_next(
    step: str, home: Path, db: QuestDB, here: Place
) -> None:
    captures(db)
    kept = rows(db, CAPTURES)[15:]
    b3("retention", "enable", "b3_captures", "--why", "to try it")
    killed(step, "retention")
    result = answer("retention")
    assert {i["action"] for i in result["items"]} == {"dropped"}
    assert rows(db, CAPTURES) == kept
    log = answer("retention", "log")
    assert sorted(e["partition"] for e in log if e["state"] == "dropped") == ["2025-03-26", "2025-03-27", "2025-03-28"]
    assert all(e["state"] in ("dropped", "abandoned") for e in log)
    assert answer("export", "--verify")["ok"]
    assert sum(m.rows for m in manifests(here, CAPTURES).values()) == 15
    assert answer("retention")["items"] == []


@pytest.mark.parametrize("step", some(RESTORE_STEPS))
def test_a_restore_that_is_killed_at_any_step_is_finished_by_the_next(step: str, home: Path, db: QuestDB) -> None:
    captures(db)
    before = rows(db, CAPTURES)
    b3("retention", "enable", "b3_captures", "--why", "to try it")
    b3("retention")
    restore = ("retention", "restore", "b3_captures", "2025-03-27", "--why", "a question")
    killed(step, *restore)
    answer("retention")  # which takes nothing of it away meanwhile
    if step == RESTORE_STEPS[-1]:
        assert "is back" in answer(*restore, code=2)["error"]
    else:
        assert [i["action"] for i in answer(*restore)["items"]] == ["restored"]
    assert rows(db, CAPTURES) == [*before[5:10], *before[15:]]
    assert [h["why"] for h in answer("retention", "holds")] == ["restored: a question"]
    assert [i["action"] for i in answer("retention")["items"]] == ["kept"]


def test_a_full_disk_stops_before_anything_is_dropped(home: Path, db: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    captures(db)
    b3("retention", "enable", "b3_captures", "--why", "to try it")
    monkeypatch.setenv("B3_MIN_FREE_DISK_MB", str(10**9))
    for command in ("retention", "export"):
        assert "are free in" in answer(command, code=1)["error"]
    assert len(partitions(db, CAPTURES)) == 4
    assert not (home / "exports").exists()
    assert home_module.DiskFull.exit_code == 1


def test_rules_holds_and_the_log_are_shown(home: Path, db: QuestDB) -> None:
    captures(db)
    standing = {rule["table"]: (rule["days"], rule["enabled"]) for rule in answer("retention", "rules")}
    assert (standing["b3_captures"], standing["tp_capital_signals"], standing["tp_capital_signals_deleted"]) == (
        (180, False),
        (30, True),
        (90, True),
    )
    b3("retention", "enable", "b3_captures", "--why", "to try it")
    held = answer(
        "retention", "hold", "b3_captures", "--from", "2025-03-27", "--to", "2025-03-27", "--why", "a question"
    )
    assert (held["from"], held["to"]) == ("2025-03-27T00:00:00Z", "2025-03-28T00:00:00Z")
    said = answer("retention", "--dry-run")["items"]
    assert [i["action"] for i in said] == ["would be dropped", "kept", "would be dropped"]
    assert "a question" in b3("retention", "holds").stdout
    assert [i["action"] for i in answer("retention")["items"]] == ["dropped", "kept", "dropped"]
    late = answer("retention", "hold", "b3_captures", "--to", "2025-03-26", "--why", "too late")
    assert late["taken_away_before"] == ["2025-03-26"]
    assert answer("retention", "release", held["id"], "--why", "answered")["ok"]
    assert "no hold" in answer("retention", "release", held["id"], code=2)["error"]
    assert [i["name"] for i in answer("retention")["items"]] == ["2025-03-27"]
    assert "2025-03-27" in b3("retention", "log").stdout
    assert "on" in b3("retention", "rules").stdout
    assert "dropped" not in b3("retention").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("enable", "b3_loads", "--why", "never"),
        ("enable", "b3_typo", "--why", "no such table"),
        ("enable", "b3_captures", "--why", " "),
        ("disable", "b3_captures", "--why", "two\nlines"),
        ("hold", "b3_captures", "--why", ""),
        ("restore", "b3_captures", "2025-03-26", "--why", "was never taken away"),
    ],
)
def test_a_wrong_call_is_refused_and_nothing_is_changed(arguments: tuple[str, ...], home: Path) -> None:
    assert answer("retention", *arguments, code=2)["error"]
    assert answer("retention", "holds") == []
    assert not any(rule["who"] for rule in answer("retention", "rules"))


def ninety_days(shared: Path, folder: Path) -> list[dict[str, Any]]:
    """Signals of the recorded form, some a day, for the ninety days to today."""
    recorded = json.loads((shared / "data/lowdb/clean/tp_capital_signals.json").read_text("utf-8"))
    chance = random.Random(90)
    sent = [
        {**recorded[(day * 3 + n) % len(recorded)], "timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
        for day in range(90)
        for n, at in enumerate(
            sorted(TODAY - day * DAY + timedelta(seconds=chance.randrange(86_400)) for _ in range(3))
        )
    ]
    folder.mkdir()
    (folder / "tp_capital_signals.json").write_text(json.dumps(sent, ensure_ascii=False), "utf-8")
    return sent


@pytest.mark.slow
def test_of_ninety_days_of_signals_thirty_stay_and_sixty_are_in_the_exports_row_for_row(
    home: Path, db: QuestDB, here: Place, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = ninety_days(shared, tmp_path / "signals")
    monkeypatch.setenv("B3_NOW", "2025-10-15T00:00:00+00:00")
    loaded = answer("signals", "import", tmp_path / "signals")["tables"]["tp_capital_signals"]
    assert loaded["loaded"] == len(sent) == 270
    before = rows(db, SIGNALS)
    assert answer("export", "tp_capital_signals")["ok"]
    assert {i["why"] for i in answer("retention", "--dry-run")["items"]} == {
        "the warehouse has not loaded it as it is: `b3 export`, then `b3 warehouse load`"
    }
    assert answer("warehouse", "load")["ok"]
    said = [i for i in answer("retention", "--dry-run")["items"] if i["action"] == "would be dropped"]
    assert rows(db, SIGNALS) == before
    went = answer("retention")["items"]
    assert [(i["name"], i["rows"], i["action"]) for i in went] == [(i["name"], i["rows"], "dropped") for i in said]
    assert len(went) == 60
    stayed = rows(db, SIGNALS)
    assert len({row["ts"].date() for row in stayed}) == 30
    exported = [
        row for i in said for piece in read(here, manifests(here, SIGNALS)[i["name"]]) for row in piece.to_pylist()
    ]
    assert [*exported, *stayed] == before

    repeated = answer("signals", "import", tmp_path / "signals")  # brings nothing back, and counts as it did
    assert {k: repeated["tables"]["tp_capital_signals"][k] for k in loaded} == {**loaded, "rows_in_table": 90}
    assert {file["name"]: file["outcome"] for file in repeated["files"]}["tp_capital_signals.json"] == "unchanged"
    assert rows(db, SIGNALS) == stayed
    checks = {(c["table"], c["check"]): c for c in json.loads(b3("validate", "--json").stdout)["checks"]}
    assert checks["b3_loads", "identity"]["passed"], checks["b3_loads", "identity"]

    for item in went[-2:]:
        answer("retention", "restore", "tp_capital_signals", item["name"], "--why", "for a question")
    assert rows(db, SIGNALS) == before[-len(stayed) - sum(i["rows"] for i in went[-2:]) :]
