"""The synthetic payloads: our own parsers must read all of each, and what they say must agree."""

from __future__ import annotations

import io
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from b3_pipeline import sample_payloads
from b3_pipeline.parsing.kinds import CAPTURE, LEGACY_KINDS, LIVE_KINDS, REPORT, Kind
from b3_pipeline.sample_payloads import Sample, session_samples
from b3_pipeline.sessions import ZONE, to_local
from b3_pipeline.tables import TABLES

SESSION = date(2026, 1, 12)
BEFORE = date(2026, 1, 9)
KINDS = {kind.name: kind for kind in (*LEGACY_KINDS, *LIVE_KINDS)}
MORNING = datetime.combine(SESSION, time(9, 0, 32), ZONE)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return session_samples(SESSION)


def rows(kind: Kind, data: bytes, table: str) -> list[dict[str, Any]]:
    """The records for a table; fails for a reject."""
    found: list[dict[str, Any]] = []
    for chunk in kind.parse(io.BytesIO(data), TABLES[table]).chunks:
        assert chunk.rejects == []
        found += chunk.records.to_pylist()
    return found


def test_every_payload_of_a_session_is_read_whole_and_none_of_it_is_rejected(samples: list[Sample]) -> None:
    counted: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        for table in KINDS[sample.source].tables:
            counted[sample.source, table] += len(rows(KINDS[sample.source], sample.data, table))
    assert counted == {
        ("settlement_report", "b3_adjustments"): 172,
        ("financial_indicators", "b3_indicators_daily"): 6,
        ("vol_surface", "b3_vol_surface"): 24 * 11,
        ("dxy_chart", "b3_dxy_ticks"): 117 * 118 // 2,
        ("gamma_levels", "b3_gamma_levels"): 2,
        ("gamma_levels", "b3_captures"): 1,
        ("gamma", "b3_gamma_levels"): 2,
        ("gamma", "b3_captures"): 1,
        ("ultimo_dado", "b3_snapshots"): 3,
        ("ultimo_dado", "b3_indicators"): 4,
        ("ultimo_dado", "b3_vol_surface"): 22,
        ("ultimo_dado", "b3_captures"): 1,
    }


def test_the_payloads_of_a_session_come_in_order_on_its_day_and_no_earlier_than_their_values_are_known(
    samples: list[Sample],
) -> None:
    assert samples == sorted(samples, key=lambda sample: sample.at)
    assert {to_local(sample.at).date() for sample in samples} == {SESSION}
    for sample in samples:
        for table in KINDS[sample.source].tables:
            for row in rows(KINDS[sample.source], sample.data, table):
                assert row["ts"].replace(tzinfo=UTC) <= sample.at


def test_all_values_are_plausible(samples: list[Sample]) -> None:
    for sample in (
        s for s in samples if s.source != "dxy_chart" or s.at == max(t.at for t in samples if t.source == "dxy_chart")
    ):
        for table in KINDS[sample.source].tables:
            for column in (c for c in TABLES[table].columns if c.soft):
                for row in rows(KINDS[sample.source], sample.data, table):
                    which = column.bounds_as(row[column.bounds_by]) if column.bounds_by else None
                    assert column.soft is not None
                    assert row[column.name] is None or column.soft.of(which).holds(row[column.name]), row


def test_the_same_arguments_give_the_same_bytes_and_another_seed_other_values_of_the_same_records() -> None:
    keys = TABLES["b3_adjustments"].keys[:-1]
    first, again, other = (sample_payloads.settlement_report(SESSION, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert sample_payloads.vol_surface(SESSION) == sample_payloads.vol_surface(SESSION)
    assert sample_payloads.vol_surface(SESSION) != sample_payloads.vol_surface(SESSION, seed=1)
    assert sample_payloads.capture(MORNING) != sample_payloads.capture(MORNING, seed=1)
    told, revised = (rows(REPORT, data, "b3_adjustments") for data in (first, other))
    assert [[row[k] for k in keys] for row in told] == [[row[k] for k in keys] for row in revised]


def test_a_mornings_capture_says_what_the_reports_of_the_session_before_say() -> None:
    document = sample_payloads.capture(MORNING)
    reports = {
        (row["instrument"], row["contract_month"]): row
        for row in rows(REPORT, sample_payloads.settlement_report(BEFORE), "b3_adjustments")
    }
    for row in rows(CAPTURE, document, "b3_snapshots"):
        report = reports[row["instrument"], row["contract_month"]]
        assert row["contract_month"] == "G26"
        assert row["price_settlement"] == report["price_settlement"]
        assert row["price_settlement_prev"] == report["price_prev"]
    surface = {
        (row["contract_month"], row["delta_bucket"]): row["volatility"]
        for row in rows(KINDS["vol_surface"], sample_payloads.vol_surface(BEFORE), "b3_vol_surface")
    }
    for row in rows(CAPTURE, document, "b3_vol_surface"):
        assert row["volatility"] == surface[row["contract_month"], row["delta_bucket"]]
        assert row["updated_at"] == BEFORE


def test_a_chart_goes_on_where_the_earlier_one_ended() -> None:
    charts = [sample_payloads.dxy_chart(MORNING + timedelta(minutes=minutes)) for minutes in (0, 1, 5)]
    early, same, late = (rows(KINDS["dxy_chart"], chart, "b3_dxy_ticks") for chart in charts)
    assert early == same
    assert [row["value"] for row in late[:-1]] == [row["value"] for row in early]
    assert late[-1]["bucket"] == "dxy_09h05"


def test_before_its_first_bar_a_chart_is_empty() -> None:
    assert b'"timestamp": []' in sample_payloads.dxy_chart(datetime.combine(SESSION, time(4), ZONE))


@pytest.mark.parametrize("session", [date(2018, 2, 14), date(2026, 11, 30), date(2026, 12, 30), date(2028, 2, 29)])
def test_any_session_can_be_made(session: date) -> None:
    for sample in session_samples(session)[::20]:
        for table in KINDS[sample.source].tables:
            rows(KINDS[sample.source], sample.data, table)


def test_payloads_are_small(samples: list[Sample]) -> None:
    assert max(len(sample.data) for sample in samples) < 16_000
