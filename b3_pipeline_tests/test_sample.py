"""The synthetic legacy folder: our own parsers must find in it exactly what it claims to hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b3_pipeline.errors import UsageError
from b3_pipeline.loading.payloads import survey
from b3_pipeline.parsing.capture import DELTAS
from b3_pipeline.parsing.numbers import parse_number
from b3_pipeline.sample import make_sample
from b3_pipeline.sessions import is_session
from b3_pipeline.tables import TABLES

SUNDAY_AFTER_A_HOLIDAY = datetime(2026, 11, 22, 15, tzinfo=UTC)  # Friday the 20th is no session
SESSIONS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "legado"
    make_sample(path, SUNDAY_AFTER_A_HOLIDAY, SESSIONS)
    return path


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def capture(folder: Path, name: str = "ultimo_dado.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def candidates(folder: Path) -> tuple[dict[str, int], int]:
    """Records by table, and how many of the candidates are no record: rejected or absent."""
    counted: dict[str, int] = {}
    others = 0
    for payload in (p for found in survey(folder) if (p := found.loadable)):
        for table in payload.kind.tables:
            with payload.open() as stream:
                for chunk in payload.kind.parse(stream, TABLES[table]).chunks:
                    counted[table] = counted.get(table, 0) + chunk.records.num_rows
                    others += len(chunk.rejects) + chunk.absent
    return counted, others


def test_every_record_of_the_sample_is_read_and_none_is_rejected(folder: Path) -> None:
    captures = 3
    assert candidates(folder) == (
        {
            "b3_adjustments": 3 * SESSIONS,
            "b3_indicators_daily": 4 * SESSIONS,
            "b3_vol_surface": 2 * 11 * (SESSIONS + captures),
            "b3_dxy_ticks": 3 * SESSIONS,
            "b3_snapshots": 3 * captures,
            "b3_indicators": 4 * captures,
            "b3_captures": captures + 1,
            "b3_gamma_levels": 2,
        },
        0,
    )


def test_the_folder_holds_the_six_files_two_older_captures_and_a_warning_that_it_is_synthetic(folder: Path) -> None:
    found = survey(folder)
    assert [f.name for f in found if f.outcome] == ["LEIA-ME.txt"]
    assert [f.outcome for f in found if f.name == "LEIA-ME.txt"] == ["ignored"]
    assert len(found) == 6 + 2 + 1
    assert "SINTÉTICOS" in (folder / "LEIA-ME.txt").read_text(encoding="utf-8")
    assert {row["fonte"] for row in rows(folder, "dxy_coleta.csv")} == {"SINTETICO"}
    assert {capture(folder, p.relative_to(folder).as_posix())["fonte"] for p in folder.rglob("ultimo*.json")} == {
        "SINTETICO"
    }


def test_the_files_are_returned_and_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    files = make_sample(tmp_path / "new" / "folder", SUNDAY_AFTER_A_HOLIDAY, 5)
    assert sorted(p for p in (tmp_path / "new" / "folder").rglob("*") if p.is_file()) == sorted(files)


def test_the_same_moment_gives_the_same_bytes_and_another_session_others(tmp_path: Path) -> None:
    for name, now in (
        ("a", SUNDAY_AFTER_A_HOLIDAY),
        ("b", SUNDAY_AFTER_A_HOLIDAY),
        ("c", datetime(2026, 11, 24, 15, tzinfo=UTC)),
    ):
        make_sample(tmp_path / name, now, 10)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@pytest.mark.parametrize(
    ("now", "last"),
    [
        pytest.param(SUNDAY_AFTER_A_HOLIDAY, date(2026, 11, 19), id="on a Sunday after a holiday"),
        pytest.param(datetime(2026, 1, 1, 18, tzinfo=UTC), date(2025, 12, 30), id="at New Year"),
        pytest.param(datetime(2025, 10, 14, 16, tzinfo=UTC), date(2025, 10, 14), id="in a session's afternoon"),
        pytest.param(datetime(2025, 10, 14, 12, tzinfo=UTC), date(2025, 10, 13), id="before a session's data are in"),
        pytest.param(datetime(2025, 10, 14, 1, tzinfo=UTC), date(2025, 10, 13), id="on the evening before in Brasília"),
    ],
)
def test_the_sample_ends_at_the_last_session_that_is_complete(tmp_path: Path, now: datetime, last: date) -> None:
    make_sample(tmp_path / "s", now, 3)
    for name in ("ajustes_b3.csv", "indicadores_b3.csv", "superficie_volatilidade_b3.csv", "dxy_coleta.csv"):
        assert rows(tmp_path / "s", name)[-1]["data"] == f"{last:%d-%m-%Y}"
    assert capture(tmp_path / "s")["data_coleta"] == f"{last:%d-%m-%Y}"


def test_every_day_is_a_session(folder: Path) -> None:
    days = [datetime.strptime(row["data"], "%d-%m-%Y").date() for row in rows(folder, "dxy_coleta.csv")]  # noqa: DTZ007
    assert len(days) == SESSIONS == len(set(days))
    assert days == sorted(days)
    assert all(map(is_session, days))


def test_the_captures_say_what_the_csv_rows_of_their_day_say(folder: Path) -> None:
    def of(name: str, day: str) -> list[dict[str, str]]:
        return [row for row in rows(folder, name) if row["data"] == day]

    for path in folder.rglob("ultimo*.json"):
        document = capture(folder, path.relative_to(folder).as_posix())
        day = document["data_coleta"]
        [prices] = of("ajustes_b3.csv", day)
        for name in ("DI1", "DDI", "DOL"):
            block, column = document[name], name.lower()
            assert block["vencimento"] == prices[f"{column}_vencimento"]
            assert block["preco_numerico"] == parse_number(prices[f"{column}_preco_numerico"])
            assert block["preco_numerico"] == parse_number(block["preco"])
            assert block["preco_anterior_numerico"] == parse_number(prices[f"{column}_preco_anterior_numerico"])
        [daily] = of("indicadores_b3.csv", day)
        labels = ("TAXA SELIC - (a.a.)", "TAXA SOFR", "DÓLAR CUPOM LIMPO", "DIF OPER CASADA - COMPRA")
        shown = [parse_number(document["indicadores_financeiros"][label]["valor"]) for label in labels]
        columns = ("taxa_selic", "taxa_sofr", "dolar_cupom_limpo", "dif_oper_casada")
        assert shown == [parse_number(daily[column]) for column in columns]
        surface = of("superficie_volatilidade_b3.csv", day)
        for tenor, row in zip(document["superficie_volatilidade"], surface, strict=True):
            assert tenor["mes"] == row["mes"]
            assert [tenor[delta] for delta in DELTAS] == [parse_number(row[delta]) for delta in DELTAS]


def test_a_previous_price_is_the_price_of_the_row_before(folder: Path) -> None:
    found = rows(folder, "ajustes_b3.csv")
    for before, row in pairwise(found):
        for name in ("ddi", "di1", "dol"):
            previous = parse_number(row[f"{name}_preco_anterior_numerico"])
            assert previous == parse_number(before[f"{name}_preco_numerico"])


def test_older_rows_are_migrado_and_newer_ones_ajustado(folder: Path) -> None:
    statuses = [row["status"] for row in rows(folder, "ajustes_b3.csv")]
    assert statuses == ["migrado"] * 30 + ["ajustado"] * 30


def test_contract_months_and_tenors_are_the_next_ones_over_the_turn_of_the_year(tmp_path: Path) -> None:
    make_sample(tmp_path / "s", datetime(2025, 12, 10, 18, tzinfo=UTC), 1)
    [prices] = rows(tmp_path / "s", "ajustes_b3.csv")
    assert {prices[f"{name}_vencimento"] for name in ("ddi", "di1", "dol")} == {"F26"}
    assert [row["mes"] for row in rows(tmp_path / "s", "superficie_volatilidade_b3.csv")] == ["jan-26", "fev-26"]


def test_both_notations_stand_side_by_side_in_one_column(folder: Path) -> None:
    prices = [row["di1_preco_numerico"] for row in rows(folder, "ajustes_b3.csv")]
    assert {"," in price for price in prices} == {True, False}


def within(low: float, high: float) -> Callable[[str], bool]:
    return lambda text: low <= (parse_number(text) or 0) <= high


@settings(max_examples=15, deadline=None)
@given(now=st.datetimes(datetime(2012, 1, 1), datetime(2035, 1, 1)), sessions=st.integers(1, 400))
def test_every_value_is_inside_the_soft_bounds(
    tmp_path_factory: pytest.TempPathFactory, now: datetime, sessions: int
) -> None:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, now, sessions)
    for row in rows(folder, "ajustes_b3.csv"):
        assert within(40_000, 105_000)(row["ddi_preco_numerico"])
        assert within(10_000, 100_000)(row["di1_preco_numerico"])
        assert within(3_000, 12_000)(row["dol_preco_numerico"])
    for row in rows(folder, "superficie_volatilidade_b3.csv"):
        assert all(map(within(5, 60), (row[delta] for delta in DELTAS)))
    for row in rows(folder, "dxy_coleta.csv"):
        assert all(map(within(-2.99, 2.99), (row[f"dxy_{at}"] for at in ("08h50", "08h55", "09h00"))))
    assert all(within(2, 20)(row["taxa_selic"]) for row in rows(folder, "indicadores_b3.csv"))
    levels = json.loads((folder / "gamma.json").read_text(encoding="utf-8"))["gammalevels"]["ES_SP500"]
    put, flip, call = (parse_number(levels[wall]) or 0 for wall in ("put_wall", "gamma_flip", "call_wall"))
    assert 1_000 < put <= flip <= call < 20_000


def test_a_folder_that_holds_something_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="not an empty folder"):
        make_sample(tmp_path, SUNDAY_AFTER_A_HOLIDAY)
    assert contents(tmp_path) == {"mine.txt": b"kept"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("kept")
    with pytest.raises(UsageError, match="name another"):
        make_sample(tmp_path / "taken", SUNDAY_AFTER_A_HOLIDAY)


def test_sessions_before_the_century_of_the_month_codes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ask for fewer"):
        make_sample(tmp_path / "s", datetime(2001, 1, 10, 18, tzinfo=UTC), 400)
    assert not (tmp_path / "s").exists()


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path: Path) -> None:
    before = tmp_path.stat().st_ino
    files = make_sample(tmp_path, SUNDAY_AFTER_A_HOLIDAY, 2)
    assert tmp_path.stat().st_ino == before
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(files)


def test_the_working_directory_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_sample(Path("."), SUNDAY_AFTER_A_HOLIDAY, 2)
    assert (tmp_path / "ajustes_b3.csv").is_file()


def test_a_sample_that_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        make_sample(tmp_path / "s", SUNDAY_AFTER_A_HOLIDAY, 2)
    assert not list(tmp_path.iterdir())
