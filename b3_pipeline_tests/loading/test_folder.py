"""The recorded folders, loaded into a real QuestDB: exactly the counts that are expected of them."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

from b3_pipeline.loading.folder import Account, load_all, totals
from b3_pipeline.loading.ledger import COUNTS
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import payload, survey
from b3_pipeline.parsing.kinds import REPORT
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.tables import MARKET_TABLES, REPORTED_TABLES, TABLES
from b3_pipeline_tests.loading.ticks import NOW


@pytest.fixture
def loader(db: QuestDB, tmp_path: Path) -> Loader:
    return Loader(db, tmp_path / "home", lambda: NOW, "run-1")


def migrate(loader: Loader, folder: Path) -> Account:
    account = Account(survey(folder))
    for table in MARKET_TABLES:
        account.reports += load_all(loader, [p for f in account.files if (p := f.loadable)], table)
    return account


def summary(loader: Loader, account: Account) -> dict:
    return account.summary(
        REPORTED_TABLES, lambda t: loader.db.scalar(named("select count() from {t}", t=t)), seconds=1.0
    )


def expected(folder: Path) -> dict[str, dict[str, int]]:
    return json.loads((folder / "EXPECTED.json").read_text())["tables"]


def counted(result: dict) -> dict[str, dict[str, int]]:
    return {table: {name: counts[name] for name in COUNTS} for table, counts in result["tables"].items()}


@pytest.mark.parametrize("name", ["clean", "dirty"])
def test_a_recorded_folder_gives_exactly_the_expected_counts_twice(loader: Loader, shared: Path, name: str) -> None:
    folder = shared / "data" / "legacy" / name
    first = summary(loader, migrate(loader, folder))
    assert counted(first) == expected(folder)
    assert {t: c["rows_in_table"] for t, c in first["tables"].items()} == {
        t: c["loaded"] for t, c in expected(folder).items()
    }
    again = summary(loader, migrate(loader, folder))
    assert again["tables"] == first["tables"]
    assert {f["outcome"] for f in again["files"]} <= {"unchanged", "rejected", "ignored"}


def test_on_the_next_morning_the_capture_that_moved_to_the_history_is_the_load_that_it_was(
    loader: Loader, shared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "legacy"
    shutil.copytree(shared / "data" / "legacy" / "clean", folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    migrate(loader, folder)
    (folder / "ultimo_dado.json").rename(folder / "historico" / "ultimo_dado_20251013_090032.json")
    text = (shared / "data" / "legacy" / "clean" / "ultimo_dado.json").read_text()
    (folder / "ultimo_dado.json").write_text(text.replace("2025-10-13T09:00:32", "2025-10-14T09:00:11"))
    for new in ("loaded", "unchanged"):
        result = summary(loader, migrate(loader, folder))
        outcomes = {f["name"]: f["outcome"] for f in result["files"]}
        assert result["ok"]
        assert outcomes["historico/ultimo_dado_20251013_090032.json"] == "unchanged"
        assert outcomes["ultimo_dado.json"] == new
        assert result["tables"]["b3_snapshots"]["candidates"] == 9


def test_only_a_file_rejected_whole_makes_the_dirty_folder_fail(loader: Loader, shared: Path) -> None:
    result = summary(loader, migrate(loader, shared / "data" / "legacy" / "dirty"))
    assert not result["ok"]
    [rejected] = [f for f in result["files"] if f["outcome"] == "rejected"]
    assert rejected["name"] == "historico/ultimo_dado_20251009_090000.json"
    assert "cut off" in rejected["reason"]


def test_every_rejected_record_of_the_dirty_folder_is_in_quarantine(loader: Loader, shared: Path) -> None:
    account = migrate(loader, shared / "data" / "legacy" / "dirty")
    entries = list(loader.quarantine.entries())
    assert len(entries) == totals(account.reports)["rejected"] == 40
    for entry in entries:
        assert entry.text
        assert entry.column
        assert entry.reason
        assert (entry.line is None) == entry.file.endswith(".json")


def test_a_changed_price_is_the_worked_example(loader: Loader, shared: Path, tmp_path: Path) -> None:
    clean = shared / "data" / "legacy" / "clean"
    migrate(loader, clean)
    changed = tmp_path / "changed"
    shutil.copytree(clean, changed)
    (changed / "ajustes_b3.csv").chmod(0o644)
    changed.chmod(0o755)
    text = (clean / "ajustes_b3.csv").read_text()
    (changed / "ajustes_b3.csv").write_text(text.replace("98615.14,98618.52", "98616.14,98618.52"))
    account = migrate(loader, changed)
    outcomes = {f["name"]: f["outcome"] for f in account.outcomes() if f["outcome"] != "ignored"}
    assert outcomes.pop("ajustes_b3.csv") == "loaded"
    assert set(outcomes.values()) == {"unchanged"}
    assert totals(account.of_table("b3_adjustments")) == {
        "candidates": 582,
        "loaded": 1,
        "rejected": 0,
        "duplicate": 581,
        "absent": 0,
        "revised": 1,
    }
    assert loader.db.query("select row_key, column_name, old_value, new_value from b3_revisions") == [
        ("2025-01-16T12:30:34|DI1|G25|legacy_csv", "price_settlement", "98615.14", "98616.14")
    ]


@pytest.mark.parametrize(
    ("file", "instruments"),
    [
        ("SPRD260112.zip", {"DDI": 42, "DI1": 42, "DOL": 25, "IND": 12, "WDO": 25, "WIN": 9}),
        ("SPRD230202.zip", None),
    ],
)
def test_a_settlement_report_fills_every_expiry(
    loader: Loader, shared: Path, file: str, instruments: dict[str, int] | None
) -> None:
    report = loader.load(payload(shared / "data" / "b3" / file, REPORT), TABLES["b3_adjustments"])
    assert report.counted.counts == {
        "candidates": (total := 155 if instruments else 130),
        "loaded": total,
        "rejected": 0,
        "duplicate": 0,
        "absent": 0,
    }
    if instruments:
        assert dict(loader.db.query("select instrument, count() from b3_adjustments order by 1")) == instruments
        [(settlement, previous, rate, day)] = loader.db.query(
            "select price_settlement, price_prev, settlement_rate, trade_date from b3_adjustments "
            "where instrument = 'DI1' and contract_month = 'G26'"
        )
        assert (settlement, previous, rate, day.date()) == (99176.82, 99176.95, 14.897, date(2026, 1, 12))


def test_the_current_capture_is_kept_to_the_byte(loader: Loader, shared: Path) -> None:
    folder = shared / "data" / "legacy" / "dirty"
    migrate(loader, folder)
    kept = loader.db.scalar("select payload from b3_captures where endpoint = 'ultimo-dado' order by ts desc limit 1")
    assert kept == (folder / "ultimo_dado.json").read_text()


def test_missing_empty_and_foreign_files_are_told_apart_and_the_others_load(
    loader: Loader, shared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "legacy"
    folder.mkdir()
    (folder / "indicadores_b3.csv").write_bytes((shared / "data/legacy/clean/indicadores_b3.csv").read_bytes())
    (folder / "ajustes_b3.csv").write_text("<!doctype html><title>404</title>")
    (folder / "dxy_coleta.csv").write_text(
        "data,dxy_08h50,dxy_08h55,dxy_09h00,fonte,status_08h50,status_08h55,status_09h00\n"
    )
    (folder / "ultimo_dado.json").write_text("")
    (folder / "extra.csv").write_text("x")
    result = summary(loader, migrate(loader, folder))
    assert {f["name"]: f["outcome"] for f in result["files"]} == {
        "ajustes_b3.csv": "rejected",
        "indicadores_b3.csv": "loaded",
        "superficie_volatilidade_b3.csv": "missing",
        "dxy_coleta.csv": "empty",
        "ultimo_dado.json": "empty",
        "gamma.json": "missing",
        "extra.csv": "ignored",
    }
    assert result["tables"]["b3_indicators_daily"]["loaded"] == 776
    assert not result["ok"]
