"""Rejects, exported, corrected by a person and replayed: against a real QuestDB."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.errors import UsageError
from b3_pipeline.loading.ledger import COUNTS
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Found, payload
from b3_pipeline.loading.quarantine import Entry, Quarantine
from b3_pipeline.loading.replay import (
    Item,
    corrections,
    items,
    kind_of,
    read_items,
    replay,
    with_corrections,
    write_items,
)
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, LEGACY_KINDS, REPORT, Kind
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.loading.ticks import NOW

HEADER = "data,hora,taxa_selic,taxa_sofr,dolar_cupom_limpo,dif_oper_casada"
GOOD = "13-10-2025,09:00:00,14.90,4.15,5.528,1.2"
WRONG = "14-10-2025,09:00:00,14.90,4;15,5.53,1.1"
RIGHT = WRONG.replace("4;15", "4.15")
CSV = LEGACY_KINDS[1]
DAILY = TABLES["b3_indicators_daily"]
GAMMA_WRONG = """{
  "gammalevels": {
    "timestamp": "2025-10-13T09:05:12", "status": "sucesso",
    "ES_SP500": {"call_wall": "6.700,00", "put_wall": "n.d."},
    "VIX": {"call_wall": "25.0", "put_wall": "N/A"}
  }
}"""


@pytest.fixture
def loader(db: QuestDB, tmp_path: Path) -> Loader:
    return Loader(db, tmp_path / "home", lambda: NOW)


def load(loader: Loader, folder: Path, kind: Kind, text: str) -> list[LoadReport]:
    file = folder / kind.file
    file.write_text(text, "utf-8")
    return [loader.load(payload(file, kind), TABLES[name]) for name in kind.tables]


def load_csv(loader: Loader, folder: Path, *lines: str) -> LoadReport:
    [report] = load(loader, folder, CSV, "\n".join((HEADER, *lines)) + "\n")
    return report


def counts(report: LoadReport) -> dict[str, int]:
    found = {**report.counted.counts, "revised": report.counted.revised}
    assert found["candidates"] == sum(found[name] for name in COUNTS[1:])
    return {name: count for name, count in found.items() if count}


def exported(loader: Loader) -> list[Item]:
    return items(loader.quarantine, loader.quarantine.open_entries())[0]


def replayed(loader: Loader, *given: Item) -> list[LoadReport]:
    return [report for c in corrections(loader.quarantine, given) for report in replay(loader, c)]


def edited(item: Item, old: str, new: str) -> Item:
    assert old in item.corrected
    return replace(item, corrected=item.corrected.replace(old, new))


def value(db: QuestDB, indicator: str, day: str = "2025-10-14") -> list[float]:
    query = "select value from b3_indicators_daily where indicator = %s and ts > %s order by ts"
    return [row[0] for row in db.query(query, indicator, day)]


def test_a_corrected_record_loads_under_its_own_load_and_the_old_counts_stay(loader: Loader, tmp_path: Path) -> None:
    old = load_csv(loader, tmp_path, GOOD, WRONG)
    assert counts(old) == {"candidates": 8, "loaded": 7, "rejected": 1}
    [item] = exported(loader)
    assert (item.file, item.line, item.header, item.original) == ("indicadores_b3.csv", 3, HEADER, WRONG)
    assert item.wrong == ("taxa_sofr '4;15' bad_number",)
    [report] = replayed(loader, edited(item, "4;15", "4.15"))
    assert counts(report) == {"candidates": 1, "loaded": 1}
    new = report.counted
    assert new.load_id != old.counted.load_id
    assert new.file.startswith("replay:indicadores_b3.csv#")
    assert (new.table_name, new.feed) == (DAILY.name, "legacy_csv")
    assert value(loader.db, "taxa_sofr") == [4.15]
    [kept] = loader.ledger.known(old.counted.sha256, DAILY.name, "legacy_csv")
    assert kept == old.counted
    assert exported(loader) == []
    [entry] = loader.quarantine.entries()
    assert loader.quarantine.replayed()[entry.key] == new.load_id


def test_a_replay_that_is_repeated_changes_nothing(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    [item] = exported(loader)
    first, second = (replayed(loader, edited(item, "4;15", "4.15"))[0] for _ in range(2))
    assert second.outcome == "unchanged"
    assert second.load == first.load
    loader.db.wait_applied("b3_loads")
    assert loader.db.scalar("select count() from b3_loads") == 2
    assert exported(loader) == []


def test_a_replayed_correction_is_kept_as_the_source_of_its_records(loader: Loader, tmp_path: Path) -> None:
    assert with_corrections([], loader.home) == []
    load_csv(loader, tmp_path, GOOD, WRONG)
    load(loader, tmp_path, GAMMA, GAMMA_WRONG)
    line, document = exported(loader)
    reports = replayed(loader, edited(line, "4;15", "4.15"), edited(document, "n.d.", "6.600,00"))
    kept = {found.kind: found.payload for found in with_corrections([], loader.home)}
    assert set(kept) == {CSV, GAMMA}
    for kind, content in kept.items():
        assert content is not None
        assert kind is not None
        of_it = [r for r in reports if r.payload.sha256 == content.sha256]
        assert len(of_it) == len(kind.tables)
        for report in of_it:
            again = loader.load(content, TABLES[report.counted.table_name])
            assert (again.outcome, again.load) == ("unchanged", report.load)


def test_in_a_new_database_a_correction_follows_its_file_and_yields_to_one_that_was_fixed_since(
    loader: Loader, tmp_path: Path
) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    for old, new in (("4;15", "4,x"), ("4,x", "4.15")):
        [item] = exported(loader)
        replayed(loader, edited(item, old, new))
    wrong, right = with_corrections([], loader.home)
    assert b"4,x" in ((wrong.payload and wrong.payload.data) or b"")
    same = Found("same", CSV, payload(tmp_path / CSV.file, CSV))
    assert [f.name for f in with_corrections([same], loader.home)] == ["same", wrong.name, right.name]
    (tmp_path / CSV.file).write_text("\n".join((HEADER, GOOD, WRONG.replace("4;15", "4.25"))) + "\n")
    fixed = Found("fixed", CSV, payload(tmp_path / CSV.file, CSV))
    assert [f.name for f in with_corrections([fixed], loader.home)] == [wrong.name, right.name, "fixed"]


def test_a_correction_is_kept_once_with_its_place_among_the_others(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    [item] = exported(loader)
    for new in ("4.15", "4.25", "4.15"):
        replayed(loader, edited(item, "4;15", new))
    texts = [f.payload.data for f in with_corrections([], loader.home) if f.payload and f.payload.data]
    assert [b"4.15" in text for text in texts] == [True, False]


def test_loading_the_old_file_again_neither_takes_the_correction_back_nor_misses_it(
    loader: Loader, tmp_path: Path
) -> None:
    old = load_csv(loader, tmp_path, GOOD, GOOD, WRONG)  # with duplicates, so that it is read again
    [item] = exported(loader)
    replayed(loader, edited(item, "4;15", "4.15"))
    again = load_csv(loader, tmp_path, GOOD, GOOD, WRONG)
    assert (again.outcome, again.load) == ("unchanged", old.load)
    assert value(loader.db, "taxa_sofr") == [4.15]
    assert exported(loader) == [], "what was corrected is not open again"
    assert loader.db.scalar("select count() from b3_revisions") == 0


def test_a_file_that_has_grown_does_not_open_again_what_was_corrected(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    [item] = exported(loader)
    replayed(loader, edited(item, "4;15", "4.15"))
    grown = load_csv(loader, tmp_path, GOOD, WRONG, GOOD.replace("13-10", "15-10"))
    assert counts(grown) == {"candidates": 12, "loaded": 4, "duplicate": 7, "rejected": 1}
    assert exported(loader) == []
    assert value(loader.db, "taxa_sofr", "2025-10-14T00") == [4.15, 4.15]


def test_the_corrected_file_counts_the_replayed_record_as_duplicate(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    [item] = exported(loader)
    replayed(loader, edited(item, "4;15", "4.15"))
    assert counts(load_csv(loader, tmp_path, GOOD, RIGHT)) == {"candidates": 8, "duplicate": 8}


def test_what_is_still_wrong_is_rejected_again_under_the_new_load(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    [item] = exported(loader)
    [report] = replayed(loader, edited(item, "4;15", "four"))
    assert counts(report) == {"candidates": 1, "rejected": 1}
    [still] = exported(loader)
    assert still.ids == (f"{report.counted.load_id}-1",)
    assert still.wrong == ("taxa_sofr 'four' bad_number",)
    assert still.header == HEADER
    [last] = replayed(loader, edited(still, "four", "4.15"))
    assert counts(last) == {"candidates": 1, "loaded": 1}
    assert last.counted.file.startswith("replay:indicadores_b3.csv#"), "a correction of a correction is one of the file"
    assert exported(loader) == []


def test_what_is_replayed_unedited_stays_open_however_often(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, WRONG)  # on line 2, as in its correction
    for outcome in ("loaded", "unchanged", "unchanged"):
        [item] = exported(loader)
        [report] = replayed(loader, item)
        assert (report.outcome, counts(report)) == (outcome, {"candidates": 1, "rejected": 1})
        [still] = loader.quarantine.open_entries()
        assert (still.load_id, still.text) == (report.counted.load_id, WRONG)
    [item] = exported(loader)
    replayed(loader, edited(item, "4;15", "4.15"))
    assert exported(loader) == []


def test_a_document_that_is_replayed_unedited_stays_open(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, GAMMA, GAMMA_WRONG)
    before = len(list(loader.quarantine.open_entries()))
    for _ in range(2):
        [item] = exported(loader)
        replayed(loader, item)
        assert len(list(loader.quarantine.open_entries())) == before


def test_equal_lines_of_one_correction_are_replayed_each_for_itself(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, WRONG, WRONG)
    replayed(loader, *exported(loader))
    first, second = exported(loader)
    replayed(loader, edited(first, "4;15", "4.15"))
    assert exported(loader) == [second]


def test_only_the_rejected_records_of_a_line_are_taken_for_the_others_may_be_newer_by_now(
    loader: Loader, tmp_path: Path
) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    [item] = exported(loader)
    load_csv(loader, tmp_path, GOOD, WRONG.replace("14.90", "14.75"))
    [report] = replayed(loader, edited(item, "4;15", "4.15"))
    assert counts(report) == {"candidates": 1, "loaded": 1}
    assert value(loader.db, "taxa_selic") == [14.75]


def test_records_of_one_line_corrected_one_after_the_other_are_two_loads(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, "14-10-2025,09:00:00,14.90,4;15,5.53,x")
    both = list(loader.quarantine.open_entries())
    for entry in both:
        [item] = items(loader.quarantine, [entry])[0]
        [report] = replayed(loader, replace(item, corrected="14-10-2025,09:00:00,14.90,4.15,5.53,1.1"))
        assert counts(report) == {"candidates": 1, "loaded": 1}
    assert exported(loader) == []


def test_a_line_with_too_few_fields_is_one_text_to_correct_and_all_its_records_load(
    loader: Loader, tmp_path: Path
) -> None:
    load_csv(loader, tmp_path, "14-10-2025,09:00:00,14.90")
    [item] = exported(loader)
    assert len(item.ids) == 4
    [report] = replayed(loader, replace(item, corrected="14-10-2025,09:00:00,14.90,4.15,,1.1"))
    assert counts(report) == {"candidates": 4, "loaded": 3, "absent": 1}


def test_a_conflict_whose_value_is_the_right_one_revises_and_the_first_load_still_stands(
    loader: Loader, tmp_path: Path
) -> None:
    lines = (GOOD, GOOD.replace("4.15", "4.25"))
    old = load_csv(loader, tmp_path, *lines)
    assert counts(old) == {"candidates": 8, "loaded": 4, "duplicate": 3, "rejected": 1}
    [report] = replayed(loader, *exported(loader))
    assert counts(report) == {"candidates": 1, "loaded": 1, "revised": 1}
    again = load_csv(loader, tmp_path, *lines)
    assert (again.outcome, again.load) == ("unchanged", old.load)
    assert value(loader.db, "taxa_sofr", "2025-10-13") == [4.25]
    assert exported(loader) == []


def test_a_corrected_document_replaces_the_received_one_in_all_its_tables(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, GAMMA, GAMMA_WRONG)
    [item] = exported(loader)
    assert item.line is None
    assert json.loads(item.original) == json.loads(GAMMA_WRONG)
    assert "\n" not in item.original
    levels, captures = replayed(loader, edited(item, "n.d.", "6.600,00"))
    assert counts(levels) == {"candidates": 2, "loaded": 1, "duplicate": 1}
    assert counts(captures) == {"candidates": 1, "loaded": 1, "revised": 1}
    assert loader.db.scalar("select put_wall from b3_gamma_levels where instrument = 'ES_SP500'") == 6600
    stored = loader.db.query("select payload, sha256 from b3_captures")
    assert stored == [(item.original.replace("n.d.", "6.600,00"), captures.counted.sha256)]
    assert exported(loader) == []
    assert [r.outcome for r in replayed(loader, edited(item, "n.d.", "6.600,00"))] == ["unchanged"] * 2
    for report in load(loader, tmp_path, GAMMA, GAMMA_WRONG):
        assert report.outcome == "unchanged"
    assert loader.db.query("select payload, sha256 from b3_captures") == stored


def test_a_correction_that_is_no_such_document_is_rejected_whole_and_stays_open(loader: Loader, tmp_path: Path) -> None:
    load(loader, tmp_path, GAMMA, GAMMA_WRONG)
    [item] = exported(loader)
    for report in replayed(loader, replace(item, corrected='{"gammalevels": []}')):
        assert report.outcome == "rejected"
    assert exported(loader) == [item]


def test_an_export_comes_back_as_it_was_in_both_forms(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG, '14-10-2025,09:00:00,"14,90"\u2028,4;15,5.53,ação')
    load(loader, tmp_path, GAMMA, GAMMA_WRONG)
    given = exported(loader)
    assert len(given) == 3
    for form in ("jsonl", "csv"):
        file = tmp_path / f"rejects.{form}"
        write_items(file, given)
        back = read_items(file)
        assert [(i.ids, i.original, i.corrected) for i in back] == [(i.ids, i.original, i.corrected) for i in given]
        with pytest.raises(UsageError, match="is there already"):
            write_items(file, given)


def test_a_spreadsheet_may_save_the_export_with_semicolons_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "rejects.csv"
    file.write_text('ids;original;corrected\r\n1-1 1-2;"a;b";"a;c"\r\n', "utf-8-sig", newline="")
    [item] = read_items(file)
    assert (item.ids, item.original, item.corrected) == (("1-1", "1-2"), "a;b", "a;c")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.txt", "", "jsonl or .csv"),
        ("x.jsonl", '{"ids": [', "line 1: not JSON"),
        ("x.jsonl", '\n{"ids": "1-1", "original": "", "corrected": ""}', "line 2 is no item"),
        ("x.jsonl", '{"ids": ["1-1"], "corrected": ""}', "line 1 is no item"),
        ("x.jsonl", "[]", "line 1 is no item"),
        ("x.csv", "ids,original\n", "lacks corrected"),
        ("x.csv", "", "lacks corrected, ids, original"),
        ("gone.csv", None, "cannot be read"),
    ],
)
def test_what_is_no_export_is_refused_with_its_line(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        read_items(tmp_path / name)


def test_an_edited_original_an_unknown_id_and_two_lines_in_one_are_refused(loader: Loader, tmp_path: Path) -> None:
    load_csv(loader, tmp_path, GOOD, WRONG)
    [item] = exported(loader)
    for wrong, says in {
        replace(item, original=RIGHT): "not what was exported",
        replace(item, ids=("7-1",)): "has no 7-1",
        replace(item, ids=()): "no such id",
        replace(item, corrected=f"{RIGHT}\n{GOOD}"): "must be one line",
        replace(item, corrected=" "): "must be one line",
    }.items():
        with pytest.raises(UsageError, match=says):
            corrections(loader.quarantine, [wrong])
    loader.db.wait_applied("b3_loads")
    assert loader.db.scalar("select count() from b3_loads") == 1


def entry(kind: Kind, table: str, file: str, **more: object) -> Entry:
    given = {
        "id": "1-1",
        "sha256": "ab",
        "line": None,
        "column": "/x",
        "text": "{}",
        "value": None,
        "reason": "bad_text",
    }
    return Entry(**{"table": table, "feed": kind.feed, "file": file, "record": None, **given, **more})  # pyright: ignore[reportArgumentType]


def test_every_reject_leads_back_to_its_kind() -> None:
    for kind in LEGACY_KINDS:
        for table in kind.tables:
            for file in (kind.file, f"replay:{kind.file}#12ab"):
                assert kind_of(entry(kind, table, file)) is kind
    assert kind_of(entry(CAPTURE, "b3_captures", "historico/ultimo_dado_20251013.json")) is CAPTURE
    assert kind_of(entry(REPORT, "b3_adjustments", "SPRD260112.zip")) is None


def test_what_cannot_be_corrected_here_is_left_out_with_a_word_on_what_to_do(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    unknown = [
        entry(REPORT, "b3_adjustments", "SPRD260112.zip"),
        entry(CSV, DAILY.name, CSV.file, line=3),
        entry(GAMMA, "b3_captures", GAMMA.file),
    ]
    given, left_out = items(quarantine, unknown)
    assert given == []
    assert [why.partition(": ")[0] for why in left_out] == ["SPRD260112.zip", CSV.file, GAMMA.file]
    assert list(left_out.values()) == [1, 1, 1]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), max_size=30)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_any_text_survives_the_way_to_a_person_and_back(tmp_path_factory: pytest.TempPathFactory, texts) -> None:
    folder = tmp_path_factory.mktemp("export")
    given = [Item((f"1-{n}",), "f.csv", n, (), HEADER, old, new) for n, (old, new) in enumerate(texts)]
    for form in ("jsonl", "csv"):
        write_items(folder / f"x.{form}", given)
        assert [(i.ids, i.original, i.corrected) for i in read_items(folder / f"x.{form}")] == [
            (i.ids, i.original, i.corrected) for i in given
        ]
