"""The commands that move and show data, as a person or a script calls them, against real servers."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError

from b3_pipeline import migration_log
from b3_pipeline.dagster_server import environment
from b3_pipeline.loading.ledger import COUNTS
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline_tests.cli.commands import answer, b3


@pytest.fixture
def legacy(shared: Path) -> Path:
    return shared / "data" / "legacy"


def test_migrate_reports_exactly_the_expected_counts_and_then_that_nothing_changed(home: Path, legacy: Path) -> None:
    expected = json.loads((legacy / "clean" / "EXPECTED.json").read_text())["tables"]
    first = answer("migrate", "--legacy", legacy / "clean")
    assert first["ok"]
    assert {t: {c: counts[c] for c in COUNTS} for t, counts in first["tables"].items()} == expected
    assert set(first) == {"ok", "tables", "files", "seconds", "rows_per_second"}
    again = answer("migrate", "--legacy", legacy / "clean")
    assert again["tables"] == first["tables"]
    assert {f["outcome"] for f in again["files"]} == {"unchanged", "ignored"}


def test_a_folder_with_a_broken_file_exits_with_1_and_the_rest_is_loaded(home: Path, legacy: Path) -> None:
    result = answer("migrate", "--legacy", legacy / "dirty", code=1)
    assert not result["ok"]
    expected = json.loads((legacy / "dirty" / "EXPECTED.json").read_text())["tables"]
    assert {t: {c: counts[c] for c in COUNTS} for t, counts in result["tables"].items()} == expected
    entries = answer("quarantine", "list")
    assert len(entries) == sum(t["rejected"] for t in expected.values())
    assert all(set(e) == {"id", "table", "file", "line", "column", "text", "reason"} for e in entries)
    entry = next(e for e in entries if e["reason"] == "bad_contract")
    shown = answer("quarantine", "show", entry["id"])
    assert (shown["text"], shown["value"], shown["record"]) == (entry["text"], "xyz-25", "delta_1")


def test_rejected_records_alone_fail_only_a_strict_migration(home: Path, legacy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "legacy"
    folder.mkdir()
    shutil.copyfile(legacy / "dirty" / "indicadores_b3.csv", folder / "indicadores_b3.csv")
    assert answer("migrate", "--legacy", folder)["ok"]
    assert not answer("migrate", "--legacy", folder, "--strict", code=1)["ok"]


def test_the_run_is_recorded_with_its_steps_and_their_counts(home: Path, legacy: Path, postgres: str) -> None:
    b3("migrate", "--legacy", legacy / "clean")
    env = environment(Settings(), postgres)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in env.items():
            patched.setenv(name, value)
        with dg.DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance:
            [run] = instance.get_runs(limit=1)
            assert (run.job_name, run.status) == ("migrate", dg.DagsterRunStatus.SUCCESS)
            event = instance.get_latest_materialization_event(dg.AssetKey("b3_adjustments"))
            assert event is not None
            assert event.run_id == run.run_id
            assert event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            assert metadata["dagster/row_count"].value == metadata["loaded"].value == 582
            loads = metadata["loads"]
            assert isinstance(loads, dg.TableMetadataValue)
            [load] = loads.records
            assert str(load.data["load_id"]) in str(metadata["see_loads"].value)
            observed = instance.fetch_observations(dg.AssetKey(["legacy", "ajustes_b3"]), limit=1).records
            assert observed[0].event_log_entry.run_id == run.run_id
    counted = answer("sql", f"select count() n from b3_loads where run_id = '{run.run_id}'")
    assert counted == [{"n": 14}]


def test_people_see_tables_and_what_to_do_next(home: Path, legacy: Path) -> None:
    shown = b3("migrate", "--legacy", legacy / "dirty", code=1)
    for text in ("b3_vol_surface", "2,288", "cut off"):
        assert text in " ".join(shown.stdout.split())
    assert "b3 quarantine list" in shown.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "--legacy", "/no/such/folder"],
        ["migrate"],
        ["migrate", "--nonsense"],
        ["settlements", "/no/such/file.zip"],
        ["quarantine", "show", "1-1"],
        ["sql", "drop table b3_loads"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_2_and_a_sentence(home: Path, arguments: list[str]) -> None:
    assert b3(*arguments, code=2).stderr.strip()


def test_with_json_an_error_is_a_document_too(home: Path) -> None:
    failed = answer("migrate", "--legacy", "/no/such/folder", code=2)
    assert failed["ok"] is False
    assert "is no folder" in failed["error"]


def test_a_table_of_another_shape_stops_everything_before_the_first_row(home: Path, legacy: Path, db: QuestDB) -> None:
    db.execute("ALTER TABLE b3_gamma_levels ADD COLUMN extra LONG")
    db.wait_applied("b3_gamma_levels")
    try:
        failed = answer("migrate", "--legacy", legacy / "clean", code=1)
        assert "column extra LONG is not in the contract" in failed["error"]
        db.wait_applied("b3_loads")
        assert db.scalar("select count() from b3_loads") == 0
        drift = answer("schema", "diff", code=1)
        assert list(drift["tables"]) == ["b3_gamma_levels"]
    finally:
        db.execute("ALTER TABLE b3_gamma_levels DROP COLUMN extra")
        db.wait_applied("b3_gamma_levels")


def test_a_settlement_report_is_loaded_by_hand(home: Path, shared: Path) -> None:
    for _ in range(2):
        assert answer("settlements", shared / "data" / "b3" / "SPRD260112.zip") == {
            "ok": True,
            "trade_date": "2026-01-12",
            "loaded": 155,
            "rejected": 0,
            "instruments": {"DDI": 42, "DI1": 42, "DOL": 25, "IND": 12, "WDO": 25, "WIN": 9},
        }


def test_the_same_report_in_another_zip_is_all_there_already(home: Path, shared: Path, tmp_path: Path) -> None:
    original = shared / "data" / "b3" / "SPRD260112.zip"
    answer("settlements", original)
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(tmp_path / "again.zip", "w") as new:
        new.writestr(old.namelist()[0], old.read(old.namelist()[0]))
    result = answer("settlements", tmp_path / "again.zip")
    assert (result["ok"], result["trade_date"], result["loaded"]) == (True, "2026-01-12", 0)
    assert sum(result["instruments"].values()) == 155


def test_something_that_is_no_report_is_rejected_with_its_reason(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "SPRD260113.zip"
    page.write_text("<html>em manutenção</html>")
    result = answer("settlements", page, code=1)
    assert (result["ok"], result["loaded"]) == (False, 0)
    assert result["reason"]


def test_a_sample_is_made_and_loads_without_a_reject(home: Path, tmp_path: Path) -> None:
    made = answer("sample", tmp_path / "sample", "--sessions", 5)
    assert "ajustes_b3.csv" in made["files"]
    result = answer("migrate", "--legacy", tmp_path / "sample", "--strict")
    assert result["ok"]
    assert all(t["loaded"] for t in result["tables"].values())


def test_sql_gives_a_list_of_objects(home: Path) -> None:
    assert answer("sql", "select 1 one, 'x' text, to_timestamp('2025-10-13', 'yyyy-MM-dd') at") == [
        {"one": 1, "text": "x", "at": "2025-10-13T00:00:00Z"}
    ]


def test_schema_status_and_apply_say_that_all_is_applied(home: Path) -> None:
    assert answer("schema", "apply") == {"ok": True, "applied": [], "restored": []}
    status = answer("schema", "status")
    assert {v["state"] for v in status["versions"]} == {"applied"}
    assert answer("schema", "diff") == {"ok": True, "tables": {}}


@pytest.mark.parametrize("command", [["migrate"], ["settlements"], ["sample"], ["sql"], ["quarantine", "list"], ["up"]])
def test_help_has_an_example(command: list[str]) -> None:
    shown = b3(*command, "--help").stdout
    assert "Example" in shown
    assert f"b3 {' '.join(command)}" in shown


def test_text_of_files_and_paths_is_never_taken_for_markup(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "[b]x[b]"
    folder.mkdir()
    (folder / "indicadores_b3.csv").write_text(
        "data,hora,taxa_selic,taxa_sofr,dolar_cupom_limpo,dif_oper_casada\n[/b]x,1\n"
    )
    b3("migrate", "--legacy", folder)
    entry = answer("quarantine", "list")[0]["id"]
    assert entry in b3("quarantine", "list").stdout
    assert "[/b]x,1" in b3("quarantine", "show", entry).stdout
    assert "[/x]" in b3("migrate", "--legacy", tmp_path / "[/x]", code=2).stderr


def test_a_folder_without_any_known_file_is_wrong_usage(home: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("x")
    assert "none of the legacy files" in answer("migrate", "--legacy", tmp_path, code=2)["error"]


def test_a_table_that_was_dropped_is_made_again_by_schema_apply(home: Path, db: QuestDB, legacy: Path) -> None:
    db.execute("DROP TABLE b3_gamma_levels")
    failed = answer("migrate", "--legacy", legacy / "clean", code=1)
    assert "b3 schema apply" in failed["error"]
    assert answer("schema", "apply") == {"ok": True, "applied": [], "restored": ["b3_gamma_levels"]}
    assert answer("schema", "diff")["ok"]


def test_values_of_any_type_have_a_json_form(home: Path) -> None:
    [row] = answer("sql", "select rnd_uuid4() u, rnd_bin(4, 4, 0) b, array[1.0, 2.0] a, cast(1 as short) s")
    assert row["a"] == [1.0, 2.0]
    assert len(row["u"]) == 36
    assert len(row["b"]) == 8


def test_a_postgresql_that_is_away_is_a_sentence_without_its_password(
    home: Path, legacy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_POSTGRES_DSN", "postgresql://u:hunter2@127.0.0.1:1/x")
    failed = answer("migrate", "--legacy", legacy / "clean", code=1)
    assert "PostgreSQL does not answer" in failed["error"]
    assert "hunter2" not in failed["error"]


def test_control_characters_of_a_file_do_not_reach_the_terminal(home: Path) -> None:
    shown = b3("sql", "select 'a' || cast(27 as char) || '[31m' x").stdout
    assert "\x1b" not in shown
    assert "␛[31m" in shown


def test_a_settings_file_that_cannot_be_read_is_a_sentence(home: Path) -> None:
    (home / "settings.toml").write_text("port_base = ")
    assert "settings.toml" in b3("quarantine", "list", code=2).stderr


def test_too_little_disk_stops_a_migration_before_its_first_row(
    home: Path, legacy: Path, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_MIN_FREE_DISK_MB", "99999999")
    assert "free" in b3("migrate", "--legacy", legacy / "clean", code=1).stderr
    db.wait_applied("b3_loads")
    assert db.scalar("select count() from b3_loads") == 0


def test_one_table_that_fails_leaves_the_others_loaded_and_accounted_for(home: Path, legacy: Path, db: QuestDB) -> None:
    db.execute("ALTER TABLE b3_gamma_levels SUSPEND WAL")
    try:
        result = answer("migrate", "--legacy", legacy / "clean", code=1)
    finally:
        db.execute("ALTER TABLE b3_gamma_levels RESUME WAL")
    assert result["tables"]["b3_adjustments"]["loaded"] == 582
    failed, *red = result["errors"]
    assert failed.startswith("QuestDB has suspended b3_gamma_levels")
    assert all(error.startswith("b3_captures, check rebuild") for error in red), "what the kept document misses"
    assert answer("migrate", "--legacy", legacy / "clean")["ok"]


def test_a_wrong_setting_is_named_and_its_value_is_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B3_PORT_BASE", "hunter2")
    shown = b3("quarantine", "list", code=2)
    assert "B3_PORT_BASE" in shown.stderr
    assert "hunter2" not in shown.output
    with pytest.raises(ValidationError) as raised:  # as a log has it, where no command catches it
        Settings()
    assert "hunter2" not in str(raised.value)


@pytest.fixture
def holed(home: Path, legacy: Path, db: QuestDB) -> dict[str, int]:
    """The clean folder, loaded; then March's settlements are gone. The rows that there were."""
    loaded = answer("migrate", "--legacy", legacy / "clean")
    db.execute("alter table b3_adjustments drop partition list '2025-03'")
    db.wait_applied("b3_adjustments")
    return {table: counts["rows_in_table"] for table, counts in loaded["tables"].items()}


def test_a_range_fills_exactly_what_is_missing_in_its_sessions(
    home: Path, legacy: Path, db: QuestDB, holed: dict[str, int]
) -> None:
    week = ["--from", "2025-03-08", "--to", "2025-03-16"]  # a Saturday and a Sunday
    filled = answer("migrate", "--legacy", legacy / "clean", *week)
    assert filled["ok"]
    assert {t: c["filled"] for t, c in filled["tables"].items() if c["filled"]} == {"b3_adjustments": 15}
    days = "select distinct timestamp_floor('d', ts) d from b3_adjustments where ts in '2025-03' order by d"
    assert [day.day for (day,) in db.query(days)] == [10, 11, 12, 13, 14]
    again = answer("migrate", "--legacy", legacy / "clean", *week)
    assert not any(counts["filled"] for counts in again["tables"].values())
    whole = answer("migrate", "--legacy", legacy / "clean")
    assert {t: c["rows_in_table"] for t, c in whole["tables"].items()} == holed
    assert answer("validate", "--legacy", legacy / "clean")["ok"]


@pytest.mark.parametrize(
    ("days", "why"),
    [
        (["--from", "2025-03-14", "--to", "2025-03-10"], "time's order"),
        (["--from", "2025-03-08", "--to", "2025-03-09"], "There is no session"),
        (["--from", "1999-01-01", "--to", "1999-12-31"], "known from 2018-01-02"),
        (["--from", "2999-01-01", "--to", "2999-12-31"], "There is no session"),
        (["--from", "2025-03-08"], "both --from and --to"),
        (["--from", "14/03/2025", "--to", "2025-03-14"], "14/03/2025"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_range_without_a_session_exits_with_2_and_a_sentence(
    home: Path, legacy: Path, days: list[str], why: str
) -> None:
    assert why in " ".join(b3("migrate", "--legacy", legacy / "clean", *days, code=2).stderr.split())


def test_each_migration_is_logged_with_its_sources_and_the_way_back(home: Path, legacy: Path) -> None:
    result = answer("migrate", "--legacy", legacy / "dirty", "--from", "2025-10-01", "--to", "2025-10-10", code=1)
    [step] = migration_log.steps(home)
    assert (step["kind"], step["outcome"], step["counts"]) == ("migrate", "failed", result["tables"])
    assert step["checksums"] == {f["name"]: f["sha256"] for f in result["files"] if f["sha256"]}
    assert step["details"]["sessions"] == ["2025-10-01", "2025-10-10"]
    assert "b3 backup restore" in step["way_back"]
