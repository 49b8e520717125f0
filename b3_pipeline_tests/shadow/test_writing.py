"""The shadow of a real QuestDB: what loads bring is in the files, whole, once, and heals by itself."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Payload, payload, survey
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, LEGACY_KINDS, REPORT, Kind
from b3_pipeline.questdb.client import QuestDB, QuestDBError, named
from b3_pipeline.sessions import ALWAYS, window
from b3_pipeline.settings import Settings
from b3_pipeline.shadow import files
from b3_pipeline.shadow.drift import Drift, drift
from b3_pipeline.shadow.files import SharedFolder, folder_of
from b3_pipeline.shadow.writing import ShadowReport, past_name, refresh, shadow, shadow_loads
from b3_pipeline.tables import TABLES

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
ADJUSTMENTS = "ajustes_b3.csv"


@dataclass(frozen=True)
class Desk:
    """A legacy folder, a home that it is loaded into, and the shadow of it."""

    db: QuestDB
    home: Path
    legacy: Path
    folder: Path

    def load(self, *payloads: Payload) -> list[LoadReport]:
        loader = Loader(self.db, self.home, lambda: NOW, "run-1")
        reports = [r for p in payloads for name in p.kind.tables for r in load_all(loader, [p], TABLES[name])]
        assert {r.outcome for r in reports} <= {"loaded", "unchanged"}, [r.reason for r in reports]
        return reports

    def load_folder(self, *names: str) -> list[LoadReport]:
        """Loads the legacy folder, or some files of it."""
        return self.load(*[p for f in survey(self.legacy) if (p := f.loadable) and (not names or f.name in names)])

    def shadow(self, reports: list[LoadReport]) -> list[ShadowReport]:
        return shadow_loads(self.db, self.folder, reports)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text("utf-8")

    def contents(self) -> dict[str, bytes]:
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}

    def drifted(self, **more: Any) -> list[Drift]:
        return [found for found in drift(self.db, self.folder, **more) if not found.ok]


@pytest.fixture
def desk(db: QuestDB, tmp_path: Path, shared: Path) -> Desk:
    legacy = tmp_path / "legacy"
    shutil.copytree(shared / "data" / "legacy" / "clean", legacy)
    return Desk(db, tmp_path / "home", legacy, tmp_path / "shadow")


@pytest.fixture
def report(shared: Path) -> Payload:
    return payload(shared / "data" / "b3" / "SPRD260112.zip", REPORT)


def records(kind: Kind, data: bytes, table: str, columns: list[str]) -> list[tuple]:
    found = kind.parse(io.BytesIO(data), TABLES[table]).chunks
    return [tuple(row[c] for c in columns) for chunk in found for row in chunk.records.to_pylist()]


def test_the_shadow_of_all_loads_parses_back_to_the_tables_rows_for_all_that_the_legacy_form_holds(
    desk: Desk, report: Payload
) -> None:
    reports = desk.shadow(desk.load_folder()) + desk.shadow(desk.load(report))
    assert all(r.ok for r in reports)
    beyond = {r.file: r.beyond for r in reports if r.beyond}
    front = desk.db.scalar("select count() from b3_adjustments where feed = 'b3_sprd'") - 3
    assert beyond == {ADJUSTMENTS: front}
    found = [f for f in survey(desk.folder) if f.name != ".lock"]
    assert {f.outcome for f in found} == {None}
    assert {f.kind.file for f in found if f.kind} == {kind.file for kind in LEGACY_KINDS}
    for file in found:
        given = file.payload
        assert given is not None
        for name in given.kind.tables:
            table = TABLES[name]
            legacy_form = [c.name for c in table.parsed if c.name not in ("settlement_rate", "open_interest", "sha256")]
            stored = desk.db.arrow(
                named("select {columns} from {t}", columns=[c.name for c in table.parsed], t=name),
                schema=table.arrow_schema(table.parsed),
            )
            rows = {tuple(row[c] for c in legacy_form) for row in stored.to_pylist()}
            with given.open() as stream:
                parsed = records(given.kind, stream.read(), name, legacy_form)
            assert parsed
            assert set(parsed) <= rows
    expected = {"b3_adjustments": 582 + 3, "b3_indicators_daily": 776, "b3_vol_surface": 2222, "b3_dxy_ticks": 21}
    for name, count in expected.items():
        [kind] = [k for k in LEGACY_KINDS if name in k.tables and not k.whole]
        assert len(records(kind, (desk.folder / kind.file).read_bytes(), name, ["ts"])) == count
    assert desk.text(ADJUSTMENTS).splitlines()[-1].startswith("12-01-2026,19:30:00,G26,")
    assert desk.drifted() == []


def test_a_shadow_migrated_into_an_empty_table_gives_the_same_rows_of_each_feed(desk: Desk) -> None:
    desk.shadow(desk.load_folder())
    names = sorted({name for kind in LEGACY_KINDS for name in kind.tables})

    def all_rows() -> dict[str, list[dict]]:
        stored = {}
        for name in names:
            table = TABLES[name]
            columns = [c for c in table.columns if c.name not in ("ingested_at", "load_id")]
            query = named("select {columns} from {t}", columns=[c.name for c in columns], t=name)
            stored[name] = sorted(desk.db.arrow(query, schema=table.arrow_schema(tuple(columns))).to_pylist(), key=repr)
        return stored

    before = all_rows()
    for name in names:
        desk.db.execute(f"TRUNCATE TABLE {name}")
        desk.db.wait_applied(name)
    replace(desk, legacy=desk.folder, home=desk.home / "new").load_folder()
    assert all_rows() == before


def test_shadowing_twice_changes_no_byte(desk: Desk, report: Payload) -> None:
    loads = desk.load_folder() + desk.load(report)
    desk.shadow(loads)
    before = desk.contents()
    assert {r.outcome for r in desk.shadow(loads)} == {"unchanged"}
    assert {r.outcome for r in refresh(desk.db, desk.folder, ALWAYS)} == {"unchanged"}
    assert desk.contents() == before


def test_documents_are_kept_to_the_byte_and_each_capture_under_its_local_time(desk: Desk) -> None:
    (desk.legacy / "gamma.json").write_bytes(b"\xef\xbb\xbf" + (desk.legacy / "gamma.json").read_bytes())
    desk.shadow(desk.load_folder("ultimo_dado.json", "gamma.json", "historico/ultimo_dado_20251010_093430.json"))
    for name in ("ultimo_dado.json", "gamma.json", "historico/ultimo_dado_20251010_093430.json"):
        assert (desk.folder / name).read_bytes() == (desk.legacy / name).read_bytes()
    newest = desk.folder / "historico" / "ultimo_dado_20251013_090032.json"
    assert newest.read_bytes() == (desk.legacy / "ultimo_dado.json").read_bytes()


def test_no_two_moments_have_one_name_among_the_older_captures() -> None:
    assert past_name(datetime(2025, 10, 13, 12, 0, 32)) == "historico/ultimo_dado_20251013_090032.json"
    assert past_name(datetime(2025, 10, 13, 12, 0, 32, 5)) == "historico/ultimo_dado_20251013_090032_000005.json"
    twice = {past_name(datetime(2019, 2, 17, hour, 30)) for hour in (1, 2)}
    assert twice == {"historico/ultimo_dado_20190216_233000.json", "historico/ultimo_dado_20190216_233000_2.json"}


def test_every_capture_of_a_day_stays_and_the_newest_is_the_current_one(desk: Desk) -> None:
    document = json.loads((desk.legacy / "ultimo_dado.json").read_text("utf-8"))
    for minute in (5, 3):
        stamp = f"2025-10-13T09:{minute:02d}:00"
        (desk.legacy / "ultimo_dado.json").write_text(json.dumps(document | {"timestamp": stamp}))
        desk.shadow(desk.load(payload(desk.legacy / "ultimo_dado.json", CAPTURE)))
    assert json.loads(desk.text("ultimo_dado.json"))["timestamp"] == "2025-10-13T09:05:00"
    names = sorted(path.name for path in (desk.folder / "historico").iterdir())
    assert names == ["ultimo_dado_20251013_090300.json", "ultimo_dado_20251013_090500.json"]
    assert desk.drifted() == []


def test_a_composed_capture_is_the_current_file_of_a_session_without_another_and_never_an_older_one(desk: Desk) -> None:
    kind = replace(CAPTURE, feed="composed", tables=("b3_captures", "b3_snapshots"))
    [report] = desk.shadow(desk.load(payload(desk.legacy / "ultimo_dado.json", kind)))
    assert (report.file, report.outcome, report.rows) == ("ultimo_dado.json", "written", 0)
    assert desk.drifted() == []
    assert desk.contents().keys() - {".lock"} == {"ultimo_dado.json"}


def test_gamma_levels_of_the_live_source_are_the_newest_when_they_are(desk: Desk) -> None:
    desk.load_folder("gamma.json")
    live = json.loads((desk.legacy / "gamma.json").read_text("utf-8"))
    live["gammalevels"]["timestamp"] = "2025-10-13T10:00:00"
    (desk.legacy / "gamma.json").write_text(json.dumps(live))
    [found] = desk.shadow(desk.load(payload(desk.legacy / "gamma.json", replace(GAMMA, feed="gammalevels"))))
    assert (found.file, found.outcome) == ("gamma.json", "written")
    assert json.loads(desk.text("gamma.json")) == live
    [levels] = [d for d in drift(desk.db, desk.folder) if d.table == "b3_gamma_levels"]
    assert (levels.ok, levels.table_keys, levels.beyond) == (True, 2, 2)


def test_a_revised_value_takes_the_place_of_the_old_one_and_no_other_line_changes(desk: Desk) -> None:
    desk.shadow(desk.load_folder(ADJUSTMENTS))
    before = desk.text(ADJUSTMENTS).splitlines()
    path = desk.legacy / ADJUSTMENTS
    path.write_text(path.read_text().replace("98554.55", "98554.56", 1))
    assert desk.drifted() == []
    revised = desk.load(payload(path, LEGACY_KINDS[0]))
    assert [(d.file, d.different) for d in desk.drifted()] == [(ADJUSTMENTS, 1)]
    [found] = desk.shadow(revised)
    assert (found.outcome, found.rows) == ("written", 3)
    after = desk.text(ADJUSTMENTS).splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1
    assert changed[0][1] == changed[0][0].replace("98554.55", "98554.56")
    assert desk.drifted() == []


def test_a_crash_in_the_middle_leaves_the_old_file_whole_and_the_next_call_heals(
    desk: Desk, report: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.shadow(desk.load_folder(ADJUSTMENTS))
    before = desk.contents()
    loads = desk.load(report)

    def no_space(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", no_space)
        [found] = desk.shadow(loads)
    assert (found.outcome, found.file) == ("failed", ADJUSTMENTS)
    assert "No space left" in (found.reason or "")
    assert desk.contents() == before
    assert [(d.file, d.missing) for d in desk.drifted()] == [(ADJUSTMENTS, 3)]
    healed = refresh(desk.db, desk.folder, window(date(2026, 1, 12), date(2026, 1, 12)))
    assert {r.file: r.outcome for r in healed}[ADJUSTMENTS] == "written"
    assert desk.drifted() == []


def test_drafts_of_a_killed_process_are_taken_away(desk: Desk) -> None:
    (desk.folder / "historico").mkdir(parents=True)
    left = [desk.folder / ".ajustes_b3.csv.draft-0123abcd", desk.folder / "historico" / ".x.json.draft-0123abcd"]
    for path in left:
        path.write_text("torn")
    (desk.folder / ".mine").write_text("stays")
    desk.shadow(desk.load(payload(desk.legacy / "dxy_coleta.csv", LEGACY_KINDS[3])))
    assert not any(path.exists() for path in left)
    assert (desk.folder / ".mine").exists()


def test_a_torn_or_foreign_file_is_moved_aside_said_and_made_anew(desk: Desk) -> None:
    loads = desk.load_folder(ADJUSTMENTS, "dxy_coleta.csv", "ultimo_dado.json")
    desk.shadow(loads)
    before = desk.contents()
    torn = desk.folder / ADJUSTMENTS
    torn.write_bytes(torn.read_bytes()[:-20])
    (desk.folder / "ultimo_dado.json").write_text("{")
    shutil.rmtree(desk.folder / "historico")
    (desk.folder / "historico").symlink_to(desk.legacy)
    (desk.folder / "dxy_coleta.csv").unlink()
    (desk.folder / "dxy_coleta.csv").mkdir()
    found = {r.file: r for r in desk.shadow(loads)}
    moved = {name for r in found.values() for name in r.damaged}
    aside = {f"{name}.damaged-1" for name in (ADJUSTMENTS, "ultimo_dado.json", "historico", "dxy_coleta.csv")}
    assert moved == aside
    assert "moved aside" in (found[ADJUSTMENTS].reason or "")
    assert {name: data for name, data in desk.contents().items() if "damaged" not in name} == before
    assert sorted(p.name for p in desk.legacy.iterdir()) == sorted(
        p.name for p in (desk.folder / "historico.damaged-1").resolve().iterdir()
    )


def test_of_many_damaged_files_the_newest_are_kept(tmp_path: Path) -> None:
    with files.alone(tmp_path) as held:
        for number in range(30):
            (tmp_path / "x.csv").write_text(str(number))
            held.set_aside("x.csv")
    kept = sorted(int(path.read_text()) for path in tmp_path.glob("x.csv.damaged-*"))
    assert kept == list(range(10, 30))


def test_refresh_takes_away_lines_that_the_table_has_not_but_no_day_that_it_has_lost(desk: Desk) -> None:
    desk.shadow(desk.load_folder("indicadores_b3.csv"))
    path = desk.folder / "indicadores_b3.csv"
    lines = path.read_text().splitlines(keepends=True)
    day, other_day = lines[-1].split(",")[0], "02-01-2025"
    path.write_text("".join([lines[0], f"{other_day},09:00:00,1.0,,,\n", *lines[1:], f"{day},20:00:00,1.0,,,\n"]))
    assert [(d.file, d.extra) for d in desk.drifted()] == [("indicadores_b3.csv", 2)]
    refresh(desk.db, desk.folder)
    assert path.read_text().splitlines(keepends=True) == [lines[0], f"{other_day},09:00:00,1.0,,,\n", *lines[1:]]


def test_drift_says_what_is_missing_and_which_file_cannot_be_read(desk: Desk) -> None:
    desk.shadow(desk.load_folder())
    (desk.folder / ADJUSTMENTS).unlink()
    (desk.folder / "dxy_coleta.csv").write_text("nothing\n")
    (desk.folder / "historico" / "ultimo_dado_20251010_093430.json").write_text("[]")
    found = {(d.file, d.table): d for d in desk.drifted()}
    adjustments = found[ADJUSTMENTS, "b3_adjustments"]
    assert (adjustments.missing, adjustments.extra, adjustments.different) == (582, 0, 0)
    assert adjustments.offending[0]["problem"] == "missing"
    assert "dxy_coleta.csv" in found["dxy_coleta.csv", "b3_dxy_ticks"].problems[0]
    assert found["ultimo_dado.json", "b3_snapshots"].missing == 3
    only = drift(desk.db, desk.folder, window(date(2025, 10, 13), date(2025, 10, 13)))
    assert {d.table: d.missing for d in only if d.file == ADJUSTMENTS} == {"b3_adjustments": 3}


def test_a_server_that_is_away_is_a_failed_report_and_raises_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = desk.load_folder("dxy_coleta.csv")

    def away(*_values: object) -> None:
        raise QuestDBError("QuestDB does not answer")

    monkeypatch.setattr(desk.db, "query", away)
    found = desk.shadow(loads) + refresh(desk.db, desk.folder)
    assert {r.outcome for r in found} == {"failed"}
    assert {r.reason for r in found} == {"QuestDB does not answer"}


def test_a_folder_that_is_a_file_is_a_failed_report(desk: Desk) -> None:
    desk.folder.write_text("in the way")
    assert {r.outcome for r in desk.shadow(desk.load_folder("dxy_coleta.csv"))} == {"failed"}


def test_a_table_without_a_file_of_its_own_and_no_loads_have_no_report(desk: Desk) -> None:
    assert shadow(desk.db, desk.folder, TABLES["b3_snapshots"], [1]) == []
    assert shadow(desk.db, desk.folder, TABLES["b3_adjustments"], []) == []
    [found] = shadow(desk.db, desk.folder, TABLES["b3_adjustments"], [1])
    assert found.outcome == "nothing"


@pytest.mark.parametrize("shadow_dir", ["legacy", "legacy/shadow", "link", "."])
def test_a_shadow_folder_that_is_not_apart_from_the_legacy_one_is_refused(tmp_path: Path, shadow_dir: str) -> None:
    (tmp_path / "legacy").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "legacy")
    settings = Settings(home=tmp_path / "home", legacy_dir=tmp_path / "legacy", shadow_dir=tmp_path / shadow_dir)
    with pytest.raises(SharedFolder, match="B3_SHADOW_DIR"):
        folder_of(settings)


def test_the_shadow_folder_is_in_the_home_unless_another_is_given(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert folder_of(Settings(home=home, legacy_dir=tmp_path / "legacy")) == home / "shadow"
    assert folder_of(Settings(home=home, shadow_dir=tmp_path / "other")) == tmp_path / "other"
