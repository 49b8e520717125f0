"""Each check turns red by a real defect, names its partition and key, and is green again after the repair."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.payloads import payload
from b3_pipeline.parsing.kinds import REPORT
from b3_pipeline.quality import checks
from b3_pipeline.quality.checks import checks_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import Window, window
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.quality.conftest import ADJUSTMENTS, Desk, Made

CAPTURED = ("b3_snapshots", "b3_indicators", "b3_vol_surface", "b3_gamma_levels", "b3_captures")


def shape() -> dict[str, list[tuple[str, str, bool]]]:
    return {t.name: [(c.name, c.severity, c.blocking) for c in checks_of(t)] for t in TABLES.values()}


def test_every_table_has_the_checks_that_its_contract_asks_for() -> None:
    error, warning = ("ERROR", True), ("WARN", False)
    assert shape()["b3_adjustments"] == [
        ("schema", *error),
        ("wal", *error),
        ("unique_keys", *error),
        ("hard_bounds", *error),
        ("soft_bounds", *warning),
        ("parity_legacy_csv", *error),
        ("parity_b3_sprd", *error),
        ("gaps", *warning),
        ("rejects", *warning),
        ("freshness", *warning),
        ("shadow", *warning),
        ("feeds_agree", *warning),
    ]
    assert ("rebuild", "ERROR", False) in shape()["b3_captures"]
    assert ("identity", "ERROR", True) in shape()["b3_loads"]
    assert [name for name, *_ in shape()["telegram_bots"]] == ["schema", "wal", "unique_keys", "hard_bounds"]


def test_a_clean_folder_passes_every_check_of_severity_error(desk: Desk) -> None:
    report = desk.validate()
    assert report.ok, report.failed("ERROR")
    assert report.tables["b3_adjustments"]["legacy_csv"] == {
        "source_keys": 582,
        "table_keys": 582,
        "missing": 0,
        "extra": 0,
        "different": 0,
        "rejected": 0,
        "expired": 0,
    }
    assert set(report.tables["b3_vol_surface"]) == {"legacy_csv", "legacy_capture"}
    assert report.payloads == {"compared": 3, "different": 0}


def test_a_dirty_folder_passes_too_for_what_is_rejected_is_listed_and_not_red(make_desk: Made, shared: Path) -> None:
    report = make_desk(shared / "data" / "legacy" / "dirty").validate()
    assert report.ok, report.failed("ERROR")
    assert report.tables["b3_adjustments"]["legacy_csv"]["rejected"] == 12
    assert report.payloads["different"] == 0
    [capture] = [f for c, f in report.findings if (c.table.name, c.name) == ("b3_captures", "parity_legacy_capture")]
    assert capture.numbers["unreadable"] == 1


def test_a_changed_value_is_named_and_loaded_back(settled: Desk) -> None:
    settled.sql(
        "update b3_adjustments set price_settlement = 99999 where instrument = 'DI1' and ts in '2025-01-08'",
        "b3_adjustments",
    )
    found = settled.look("b3_adjustments", "parity_legacy_csv")
    assert (found.passed, found.numbers["different"], found.numbers["missing"]) == (False, 1, 0)
    [row] = found.offending
    assert row == {
        "problem": "different",
        "partition": "2025-01-08",
        "ts": datetime(2025, 1, 8, 12, 57, 45),
        "instrument": "DI1",
        "contract_month": "G25",
        "feed": "legacy_csv",
        "column": "price_settlement",
        "source_value": 98554.55,
        "stored_value": 99999.0,
        "file": ADJUSTMENTS,
        "line": 3,
    }
    [action] = settled.repair()
    assert (action["action"], action["file"], action["outcome"]) == ("loaded again", ADJUSTMENTS, "loaded")
    assert not settled.red("b3_adjustments")
    trace = settled.db.query("select column_name, old_value, new_value, load_id from b3_revisions")
    assert trace == [("price_settlement", "99999.0", "98554.55", action["load_id"])]


def test_a_dropped_partition_is_named_and_loaded_back(settled: Desk) -> None:
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    found = settled.look("b3_adjustments", "parity_legacy_csv")
    gone = found.numbers["missing"]
    assert not found.passed
    assert (found.numbers["source_keys"], found.numbers["table_keys"]) == (582, 582 - int(gone))
    assert {row["partition"][:7] for row in found.offending} == {"2025-03"}
    settled.repair()
    assert not settled.red("b3_adjustments")


EXTRA = "insert into b3_adjustments (ts, instrument, contract_month, price_settlement, status, feed, load_id) values "


def test_a_row_too_many_is_named_and_its_closed_partition_rebuilt(settled: Desk) -> None:
    settled.sql(EXTRA + "('2025-02-03T12:00:00Z', 'DI1', 'H25', 98000.0, 'x', 'legacy_csv', 7)", "b3_adjustments")
    found = settled.look("b3_adjustments", "parity_legacy_csv")
    assert (found.passed, found.numbers["extra"]) == (False, 1)
    [row] = found.offending
    assert (row["problem"], row["partition"], row["instrument"]) == ("extra", "2025-02-03", "DI1")
    identity = settled.look("b3_loads", "identity")
    assert (identity.passed, identity.numbers["unknown_loads"]) == (False, 1)
    [action] = settled.repair()
    assert (action["action"], action["partition"], action["removed"]) == ("rebuilt", "2025-02", 1)
    assert not settled.red("b3_adjustments")
    assert (settled.home / "repaired" / action["removed_rows_file"]).exists()


def test_a_row_that_was_copied_with_its_load_is_taken_out_too(settled: Desk) -> None:
    copied = "select dateadd('h', 1, ts), instrument, contract_month, price_settlement, status, feed, load_id"
    settled.sql(
        "insert into b3_adjustments (ts, instrument, contract_month, price_settlement, status, feed, load_id) "
        f"{copied} from b3_adjustments where ts in '2025-05'",
        "b3_adjustments",
    )
    assert settled.look("b3_loads", "identity").numbers["rows_differ"] == 1
    extra = settled.look("b3_adjustments", "parity_legacy_csv").numbers["extra"]
    assert extra == 63
    [action] = settled.repair()
    assert action["removed"] == extra
    assert not settled.red("b3_adjustments")


def test_a_row_too_many_in_the_newest_partition_is_left_and_that_is_said(settled: Desk) -> None:
    settled.sql(EXTRA + "('2025-10-09T12:00:00Z', 'DI1', 'X25', 98000.0, 'x', 'legacy_csv', 7)", "b3_adjustments")
    [action] = settled.repair()
    assert (action["action"], action["partition"]) == ("left", "2025-10")
    assert "newest partition" in action["reason"]
    assert settled.look("b3_adjustments", "parity_legacy_csv").numbers["extra"] == 1


def test_rows_whose_file_is_no_longer_as_it_was_are_refused_to_be_taken_out(settled: Desk) -> None:
    file = settled.folder / ADJUSTMENTS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:1], *lines[3:]]))
    assert settled.look("b3_adjustments", "parity_legacy_csv").numbers["extra"] == 6
    [action] = settled.repair()
    assert (action["action"], action["rows"]) == ("refused", 6)
    assert ADJUSTMENTS in action["reason"]
    assert settled.db.scalar("select count() from b3_adjustments") == 582


def test_rows_without_a_source_are_not_green_and_are_not_touched(settled: Desk) -> None:
    found = settled.look("b3_adjustments", "parity_legacy_csv", files=())
    assert not found.passed
    assert found.undecided
    assert "--legacy" in found.advice
    assert (found.numbers["table_keys"], found.numbers["extra"]) == (582, 0)
    [action] = settled.repair(files=())
    assert action["action"] == "refused"
    assert settled.look("b3_dxy_ticks", "parity_legacy_csv", files=()).passed


def test_a_report_that_was_loaded_is_kept_and_is_its_rows_source(settled: Desk, shared: Path) -> None:
    report = settled.folder / "SPRD230202.zip"
    shutil.copyfile(shared / "data" / "b3" / report.name, report)
    [loaded] = load_all(settled.loader(), [payload(report, REPORT)], TABLES["b3_adjustments"])
    assert loaded.outcome == "loaded"
    report.unlink()
    assert settled.look("b3_adjustments", "parity_b3_sprd").passed
    settled.sql("alter table b3_adjustments drop partition list '2023-02'", "b3_adjustments")
    missing = settled.look("b3_adjustments", "parity_b3_sprd")
    assert {(row["partition"], row["file"]) for row in missing.offending} == {("2023-02-02", "SPRD230202.zip")}
    settled.repair()
    assert settled.look("b3_adjustments", "parity_b3_sprd").passed


def test_a_key_that_is_there_twice_is_named_and_one_of_its_rows_stays(settled: Desk) -> None:
    settled.sql("alter table b3_adjustments dedup disable", "b3_adjustments")
    columns = "ts, instrument, contract_month, price_settlement, price_prev, status, trade_date, feed, load_id"
    settled.sql(
        f"insert into b3_adjustments ({columns}) select {columns} from b3_adjustments "
        "where ts in '2025-01-08' and instrument = 'DOL'",
        "b3_adjustments",
    )
    off = settled.look("b3_adjustments", "schema")
    assert not off.passed
    assert "DEDUP keys" in off.offending[0]["difference"]
    [left] = settled.repair()
    assert (left["action"], "DEDUP" in left["reason"]) == ("left", True)
    settled.sql(
        "alter table b3_adjustments dedup enable upsert keys(ts, instrument, contract_month, feed)", "b3_adjustments"
    )
    found = settled.look("b3_adjustments", "unique_keys")
    assert (found.passed, found.numbers) == (False, {"repeated_keys": 1})
    [row] = found.offending
    assert (row["partition"], row["instrument"], row["rows"]) == ("2025-01-08", "DOL", 2)
    [action, *_] = settled.repair()
    assert (action["action"], action["partition"], action["removed"]) == ("rebuilt", "2025-01", 1)
    assert not settled.red("b3_adjustments")


def test_a_suspended_table_is_named_with_the_way_out(settled: Desk) -> None:
    settled.db.execute("alter table b3_adjustments suspend wal")
    settled.db.execute(EXTRA + "('2025-10-09T12:00:00Z', 'DI1', 'X25', 98000.0, 'x', 'legacy_csv', 7)")
    found = settled.look("b3_adjustments", "wal")
    assert not found.passed
    assert (found.numbers["suspended"], found.numbers["pending_transactions"]) == (1, 1)
    assert "RESUME WAL" in found.advice
    parity = next(f for c, f in settled.validate().failed("ERROR") if c.name == "parity_legacy_csv")
    assert "suspended" in parity.advice
    settled.sql("alter table b3_adjustments resume wal", "b3_adjustments")
    assert settled.look("b3_adjustments", "wal").passed


def test_a_dropped_column_is_named_and_the_other_checks_say_that_they_could_not_look(settled: Desk) -> None:
    settled.sql("alter table b3_adjustments drop column price_prev", "b3_adjustments")
    found = settled.look("b3_adjustments", "schema")
    assert [row["difference"] for row in found.offending] == ["column price_prev DOUBLE is missing"]
    assert not settled.look("b3_adjustments", "hard_bounds").passed
    settled.sql("alter table b3_adjustments add column price_prev double", "b3_adjustments")
    assert settled.look("b3_adjustments", "parity_legacy_csv").numbers["different"] == 582
    settled.repair()
    settled.repair()  # the first rows after the change come without the new column's values (QuestDB 9.3.4, over ILP)
    assert not settled.red("b3_adjustments")


def test_rows_out_of_hard_bounds_or_without_a_key_are_named_by_the_bounds_of_their_instrument(settled: Desk) -> None:
    settled.sql(EXTRA + "('2025-02-03T12:00:00Z', 'DOL', 'H25', 60000.0, 'x', 'legacy_csv', 7)", "b3_adjustments")
    settled.sql(EXTRA + "('2025-02-03T12:00:00Z', 'DI1', null, 60000.0, 'x', 'legacy_csv', 7)", "b3_adjustments")
    found = settled.look("b3_adjustments", "hard_bounds")
    assert (found.passed, found.numbers["rows"]) == (False, 2)
    assert {(row["rule"], row["partition"], row["instrument"]) for row in found.offending} == {
        ("price_settlement in [500 … 50000]", "2025-02-03", "DOL"),
        ("contract_month is given", "2025-02-03", "DI1"),
    }
    settled.repair()
    assert settled.look("b3_adjustments", "hard_bounds").passed


def test_rows_out_of_soft_bounds_are_a_warning(settled: Desk) -> None:
    january = window(date(2025, 1, 2), date(2025, 1, 31))
    assert settled.look("b3_adjustments", "soft_bounds", january).passed
    settled.sql(
        "update b3_adjustments set price_settlement = 2500 where instrument = 'DOL' and ts in '2025-01-08'",
        "b3_adjustments",
    )
    found = settled.look("b3_adjustments", "soft_bounds", january)
    assert (found.passed, found.numbers["rows"]) == (False, 1)
    [row] = found.offending
    assert (row["partition"], row["price_settlement"]) == ("2025-01-08", 2500.0)
    assert settled.look("b3_adjustments", "hard_bounds").passed
    settled.repair()
    assert settled.look("b3_adjustments", "soft_bounds", january).passed


def test_bounds_of_an_indicator_go_by_its_label_and_walls_must_ascend(captured: Desk) -> None:
    captured.sql("update b3_indicators set value = 30 where name = 'TAXA SELIC - (a.a.)'", "b3_indicators")
    selic = captured.look("b3_indicators", "soft_bounds")
    assert (selic.numbers["rows"], selic.offending[0]["name"]) == (2, "TAXA SELIC - (a.a.)")
    captured.sql("update b3_gamma_levels set put_wall = 6900 where instrument = 'ES_SP500'", "b3_gamma_levels")
    walls = captured.look("b3_gamma_levels", "soft_bounds")
    assert [row["rule"] for row in walls.offending] == ["put_wall ≤ gamma_flip ≤ call_wall"]
    captured.repair()
    assert not captured.red(*CAPTURED)
    assert captured.look("b3_gamma_levels", "soft_bounds").passed


def test_a_capture_of_a_day_that_is_no_session_is_a_warning(captured: Desk) -> None:
    text = (captured.folder / "ultimo_dado.json").read_text()
    saturday = text.replace("2025-10-13T", "2025-10-11T").replace("13-10-2025", "11-10-2025")
    (captured.folder / "historico" / "ultimo_dado_20251011_090032.json").write_text(saturday)
    captured.load()
    found = captured.look("b3_captures", "soft_bounds")
    assert (found.passed, found.numbers["rows"]) == (False, 1)
    assert [(row["rule"], row["partition"]) for row in found.offending] == [("its day is a session", "2025-10-10")]
    assert not captured.red(*CAPTURED)


def test_a_session_without_rows_is_a_gap_unless_it_is_declared_as_known(make_desk: Made, shared: Path) -> None:
    clean = shared / "data" / "legacy" / "clean"
    desk = make_desk(clean, ADJUSTMENTS)
    before = desk.look("b3_adjustments", "gaps")
    days = {row["partition"] for row in before.offending}
    desk.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    gaps = desk.look("b3_adjustments", "gaps")
    assert not gaps.passed
    found = {row["partition"] for row in gaps.offending} - days
    assert {"2025-03-06", "2025-03-31"} <= found
    assert "2025-03-04" not in found  # carnival
    known = {"legacy_csv": [window(date(2025, 3, 1), date(2025, 3, 31))]}
    assert {row["partition"] for row in desk.look("b3_adjustments", "gaps", known_gaps=known).offending} == days
    desk.repair()
    assert {row["partition"] for row in desk.look("b3_adjustments", "gaps").offending} == days


def test_feeds_that_differ_under_one_key_are_named_with_both_values(settled: Desk) -> None:
    assert settled.look("b3_adjustments", "feeds_agree").passed
    settled.sql(
        "insert into b3_adjustments (ts, instrument, contract_month, price_settlement, price_prev, status, trade_date, "
        "feed, load_id) select ts, instrument, contract_month, price_settlement + 1, price_prev, status, trade_date, "
        "'composed', load_id from b3_adjustments where ts in '2025-01-08'",
        "b3_adjustments",
    )
    found = settled.look("b3_adjustments", "feeds_agree")
    assert (found.passed, found.numbers["keys_in_two_feeds"], found.numbers["different"]) == (False, 3, 3)
    row = next(row for row in found.offending if row["instrument"] == "DI1")
    assert (row["partition"], row["column"], row["composed"], row["legacy_csv"]) == (
        "2025-01-08",
        "price_settlement",
        98555.55,
        98554.55,
    )
    report = settled.validate()
    assert "composed" in report.tables["b3_adjustments"], "rows of a feed that no parser knows are listed"
    assert not report.ok


def test_a_kept_document_that_was_changed_is_named_and_loaded_back_from_its_file(captured: Desk) -> None:
    captured.sql("update b3_captures set payload = '{\"a\": 1}' where endpoint = 'gamma'", "b3_captures")
    found = captured.look("b3_captures", "parity_legacy_capture")
    [row] = found.offending
    assert (row["problem"], row["endpoint"], row["column"]) == ("different", "gamma", "payload")
    assert not captured.look("b3_captures", "rebuild").passed
    captured.repair()
    assert not captured.red(*CAPTURED)


def test_captures_whose_files_are_gone_are_judged_by_the_documents_that_were_kept(captured: Desk) -> None:
    for path in captured.folder.rglob("*.json"):
        path.unlink()
    assert not captured.red(*CAPTURED)
    captured.sql("update b3_gamma_levels set call_wall = 7000 where instrument = 'ES_SP500'", "b3_gamma_levels")
    captured.sql("alter table b3_snapshots drop partition list '2025-10-10'", "b3_snapshots")
    assert captured.look("b3_gamma_levels", "parity_legacy_capture").numbers["different"] == 1
    missing = captured.look("b3_snapshots", "parity_legacy_capture")
    assert {row["partition"] for row in missing.offending} == {"2025-10-10"}
    captured.repair()
    assert not captured.red(*CAPTURED)


def test_a_kept_document_that_neither_file_nor_ledger_knows_is_too_many(captured: Desk) -> None:
    captured.sql(
        "insert into b3_captures (ts, endpoint, payload, sha256, feed, load_id) "
        "select dateadd('d', -7, ts), endpoint, payload, sha256, feed, 7 from b3_captures where endpoint = 'gamma'",
        "b3_captures",
    )
    found = captured.look("b3_captures", "parity_legacy_capture")
    assert (found.numbers["extra"], found.offending[0]["partition"]) == (1, "2025-10-06")
    captured.repair()
    assert not captured.red(*CAPTURED)


def test_a_document_changed_while_its_file_is_gone_stays_red_and_its_rows_are_left_alone(captured: Desk) -> None:
    (captured.folder / "gamma.json").unlink()
    captured.sql("update b3_captures set payload = '{\"a\": 1}' where endpoint = 'gamma'", "b3_captures")
    found = captured.look("b3_captures", "parity_legacy_capture")
    assert (found.numbers["different"], found.numbers["extra"]) == (1, 0)
    assert captured.look("b3_gamma_levels", "parity_legacy_capture").numbers["extra"] == 0
    captured.repair()
    assert captured.db.scalar("select count() from b3_gamma_levels") == 2
    assert not captured.look("b3_captures", "parity_legacy_capture").passed


def test_a_document_that_the_tables_do_not_give_back_is_named_with_the_place(captured: Desk) -> None:
    captured.sql("update b3_snapshots set price_settlement = 99121.7 where instrument = 'DI1'", "b3_snapshots")
    found = captured.look("b3_captures", "rebuild")
    assert (found.passed, found.numbers["different"]) == (False, 2)
    by_day = {row["partition"]: row for row in found.offending}
    assert by_day["2025-10-13"]["column"] == "/DI1/preco"
    assert (by_day["2025-10-13"]["source_value"], by_day["2025-10-13"]["stored_value"]) == ("99.121,69", "99.121,70")
    captured.repair()
    assert captured.look("b3_captures", "rebuild").passed


def test_an_account_that_was_tampered_with_is_named_and_counted_anew(settled: Desk) -> None:
    settled.sql("update b3_loads set loaded = 581", "b3_loads")
    found = settled.look("b3_loads", "identity")
    assert (found.passed, found.numbers["unclosed"], found.numbers["rows_differ"]) == (False, 1, 1)
    assert {row["file"] for row in found.offending} == {ADJUSTMENTS}
    settled.repair()
    assert not settled.red("b3_adjustments")
    settled.db.wait_applied("b3_loads")
    assert settled.db.scalar("select loaded from b3_loads") == 582


def test_rejects_that_are_gone_from_the_quarantine_are_named_and_written_again(make_desk: Made, shared: Path) -> None:
    desk = make_desk(shared / "data" / "legacy" / "dirty", ADJUSTMENTS)
    [kept] = (desk.home / "quarantine").glob("*.jsonl")
    lines = kept.read_bytes()
    kept.unlink()
    found = desk.look("b3_loads", "identity")
    assert (found.passed, found.numbers["quarantine_differs"]) == (False, 1)
    desk.repair()
    assert kept.read_bytes() == lines
    assert desk.look("b3_loads", "identity").passed


def test_a_load_that_a_dead_process_left_behind_is_counted_and_is_no_failure(settled: Desk) -> None:
    settled.sql(
        "insert into b3_loads (ts, load_id, table_name, feed, file, sha256, outcome) values "
        "('2025-10-14T12:00:00Z', 1, 'b3_dxy_ticks', 'legacy_csv', 'dxy_coleta.csv', 'x', 'started')",
        "b3_loads",
    )
    found = settled.look("b3_loads", "identity")
    assert (found.passed, found.numbers["started_long_ago"]) == (True, 1)


def test_values_that_a_later_load_revised_leave_every_account_closed(settled: Desk) -> None:
    file = settled.folder / ADJUSTMENTS
    file.write_text(file.read_text().replace("98554.55,98532.10", "98554.56,98532.10"))
    assert settled.look("b3_adjustments", "parity_legacy_csv").numbers["different"] == 1
    settled.load()
    assert not settled.red("b3_adjustments")


def test_a_file_that_grew_leaves_every_account_closed_after_its_rows_were_lost_and_repaired(settled: Desk) -> None:
    file = settled.folder / ADJUSTMENTS
    whole = file.read_text()
    settled.sql("truncate table b3_adjustments", "b3_adjustments")
    settled.sql("truncate table b3_loads", "b3_loads")
    file.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    settled.load()
    file.write_text(whole)
    settled.load()
    settled.db.wait_applied("b3_loads")
    assert settled.db.query("select loaded, duplicate from b3_loads order by load_id") == [(579, 0), (3, 579)]
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    red = {(table, check) for table, check, _found in settled.red("b3_adjustments")}
    assert red == {("b3_adjustments", "parity_legacy_csv"), ("b3_loads", "identity")}
    settled.repair()
    assert not settled.red("b3_adjustments")


def test_rows_lost_of_a_file_that_is_gone_keep_its_account_open(settled: Desk) -> None:
    (settled.folder / ADJUSTMENTS).unlink()
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    assert settled.look("b3_loads", "identity").numbers["rows_differ"] == 1


def test_a_partial_load_that_lost_rows_is_named_and_one_that_has_more_may_be_going_on(settled: Desk) -> None:
    settled.sql("update b3_loads set outcome = 'partial', loaded = 583, candidates = 583", "b3_loads")
    assert settled.look("b3_loads", "identity").numbers["rows_differ"] == 1
    settled.sql("update b3_loads set outcome = 'partial', loaded = 581, candidates = 581", "b3_loads")
    assert settled.look("b3_loads", "identity").passed


def test_rows_of_tp_capital_that_are_gone_turn_the_accounts_red(settled: Desk) -> None:
    load = "'2025-10-14T12:00:00Z', 9, 'telegram_bots', 'tp_capital', 'bots.json', 'x', 1, 1, 0, 0, 0, 'loaded'"
    settled.sql(
        "insert into b3_loads (ts, load_id, table_name, feed, file, sha256, candidates, loaded, rejected, duplicate, "
        f"absent, outcome) values ({load})",
        "b3_loads",
    )
    found = settled.look("b3_loads", "identity")
    assert (found.passed, found.numbers["tables_short"]) == (False, 1)
    assert [row["table_name"] for row in found.offending] == ["telegram_bots"]


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("b3_captures", "payload = '{'"),
        ("b3_captures", "payload = null"),
        ("b3_gamma_levels", "raw_payload = null"),
        ("b3_gamma_levels", "raw_payload = 'x'"),
        ("b3_vol_surface", "contract_month = 'foo'"),
        ("b3_vol_surface", "delta_bucket = 'x'"),
    ],
)
def test_a_value_that_somebody_spoilt_turns_red_and_is_repaired(captured: Desk, table: str, change: str) -> None:
    if "contract_month" in change or "delta_bucket" in change:  # a key, which no UPDATE may change
        column, value = change.split(" = ")
        columns = ["ts", "contract_month", "delta_bucket", "volatility", "updated_at", "feed", "load_id"]
        spoilt = [value if c == column else "7" if c == "load_id" else c for c in columns]
        names = ", ".join(columns)
        captured.sql(
            f"insert into {table} ({names}) select {', '.join(spoilt)} from {table} where ts in '2025-10-10' limit 1",
            table,
        )
        captured.sql(f"insert into {table} (ts, feed) values ('2025-11-10T12:00:00Z', 'other')", table)
    else:
        captured.sql(f"update {table} set {change}", table)
    found = captured.look("b3_captures", "rebuild")
    assert (found.passed, found.numbers["different"] != 0) == (False, True)
    report = captured.validate()
    assert not any("defect" in f.advice for _check, f in report.failed("ERROR"))
    captured.repair()
    assert captured.look("b3_captures", "rebuild").passed


def test_a_check_that_fails_of_itself_is_named_and_hides_no_other(
    settled: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(checks, "parity", fail)
    report = settled.validate()
    failed = {c.name: f.advice for c, f in report.failed("ERROR") if c.table.name == "b3_adjustments"}
    assert set(failed) == {"parity_legacy_csv", "parity_b3_sprd"}
    assert "ZeroDivisionError" in failed["parity_legacy_csv"]
    assert "report it" in failed["parity_legacy_csv"]


def test_a_window_without_a_row_of_a_feed_that_began_before_it_is_a_gap(settled: Desk) -> None:
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    found = settled.look("b3_adjustments", "gaps", window(date(2025, 3, 6), date(2025, 3, 7)))
    assert [(row["feed"], row["partition"]) for row in found.offending] == [
        ("legacy_csv", "2025-03-06"),
        ("legacy_csv", "2025-03-07"),
    ]
    before = settled.look("b3_adjustments", "gaps", window(date(2024, 3, 6), date(2024, 3, 7)))
    assert before.passed


def test_a_file_that_cannot_be_read_is_named_and_red_also_where_nothing_of_it_is_stored(settled: Desk) -> None:
    (settled.folder / "dxy_coleta.csv").write_text("what is this\n")
    found = settled.look("b3_dxy_ticks", "parity_legacy_csv")
    assert (found.passed, found.numbers["unreadable"]) == (False, 1)
    assert "dxy_coleta.csv" in found.advice
    [file] = [f for f in settled.context().files if f.name == "dxy_coleta.csv"]
    broken = replace(file, payload=None, outcome="rejected", reason="Permission denied")
    assert not settled.look("b3_dxy_ticks", "parity_legacy_csv", files=[broken]).passed


@pytest.mark.parametrize("tolerance", [0, 3])
def test_a_tolerance_forgives_that_many_keys(settled: Desk, tolerance: int) -> None:
    settled.sql(
        "update b3_adjustments set price_settlement = price_settlement + 1 where ts in '2025-01-08'", "b3_adjustments"
    )
    found = settled.look("b3_adjustments", "parity_legacy_csv", tolerance=tolerance)
    assert found.numbers["different"] == 3
    assert found.passed == (tolerance == 3)


def test_keys_that_a_retention_took_away_are_expired_and_not_missing(settled: Desk) -> None:
    load_id = settled.db.scalar("select max(load_id) from b3_adjustments")
    settled.sql("alter table b3_adjustments drop partition list '2025-01'", "b3_adjustments")
    start = datetime(2025, 1, 1)
    expired = {"b3_adjustments": [Window(start, start + timedelta(days=31))]}
    found = settled.look("b3_adjustments", "parity_legacy_csv", expired=expired)
    assert found.passed
    assert found.numbers["expired"] == 57
    for rows, accounted in ((57, True), (56, False)):
        found = settled.look("b3_loads", "identity", expired_rows={"b3_adjustments": {load_id: rows}})
        assert found.passed == accounted


def test_parity_of_a_window_looks_at_its_sessions_only(settled: Desk) -> None:
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    march = settled.look("b3_adjustments", "parity_legacy_csv", window(date(2025, 3, 3), date(2025, 3, 31)))
    assert (march.numbers["source_keys"], march.numbers["table_keys"]) == (march.numbers["missing"], 0)
    assert settled.look("b3_adjustments", "parity_legacy_csv", window(date(2025, 4, 1), date(2025, 4, 30))).passed


def test_checks_of_an_empty_table_pass_with_nothing_counted(db: QuestDB, tmp_path: Path) -> None:
    empty = Desk(db, tmp_path / "home", tmp_path)
    for table in TABLES.values():
        for check in checks_of(table):
            found = check.run(empty.context(files=()), Window())
            assert found.passed, (table.name, check.name, found)
            assert not any(found.numbers[n] for n in found.numbers if n not in ("rules",))
