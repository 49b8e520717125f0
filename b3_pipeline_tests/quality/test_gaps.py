"""Which sessions, buckets and captures a feed misses, until when its source has them, and which nobody misses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.quality.checks import checks_of
from b3_pipeline.quality.finding import Context, Finding
from b3_pipeline.quality.gaps import Gap, advice, find, known_gaps, most_urgent_first, parts, together
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window, to_utc, window
from b3_pipeline.settings import KnownGap, Settings
from b3_pipeline.sources.catalog import SOURCES
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.quality.conftest import Desk

MARCH = """
[[known_gaps]]
feed = "legacy_csv"
first = 2025-03-01
last = 2025-03-14
why = "o coletor ficou parado"

[[known_gaps]]
feed = "legacy_csv"
first = 2025-03-17
last = 2025-03-31
why = "idem"
"""


def missing(folder: Path) -> set[str]:
    """The sessions that the check misses, as Dagster and `b3 validate` are given what is known."""
    [check] = [check for check in checks_of(TABLES["b3_adjustments"]) if check.name == "gaps"]
    with Store().quality(Inputs(legacy_dir=str(folder)), "run-1") as context:
        return {row["partition"] for row in check.run(context, ALWAYS).offending}


def test_a_gap_that_is_declared_in_the_settings_is_not_missed(home: Path, settled: Desk) -> None:
    before = missing(settled.folder)
    settled.sql("alter table b3_adjustments drop partition list '2025-03'", "b3_adjustments")
    assert {"2025-03-06", "2025-03-31"} <= missing(settled.folder) - before
    (home / "settings.toml").write_text(MARCH)
    assert missing(settled.folder) == before


def test_gaps_of_one_feed_are_together_and_of_others_apart() -> None:
    day = {"first": "2025-03-06", "last": "2025-03-06", "why": "-"}
    gaps = known_gaps(KnownGap.model_validate({"feed": feed, **day}) for feed in ("a", "b", "a"))
    assert {feed: len(windows) for feed, windows in gaps.items()} == {"a": 2, "b": 1}


@pytest.mark.parametrize("wrong", [MARCH.replace("2025-03-14", "2025-02-14"), MARCH.replace("why", "because")])
def test_a_gap_that_is_none_is_refused(home: Path, wrong: str) -> None:
    (home / "settings.toml").write_text(wrong)
    with pytest.raises(ValidationError, match="known_gaps"):
        Settings()


# Finding

#: A session each, of which 12 October is a Sunday and 3 and 4 March carnival.
OCTOBER = [date(2025, 10, day) for day in (6, 7, 8, 9, 10, 13)]
LEGACY = ("dxy_08h50", "dxy_08h55", "dxy_09h00")


def local(day: date, hour: int = 12, minute: int = 0) -> datetime:
    """A local time as UTC."""
    return to_utc(datetime.combine(day, time(hour, minute))).replace(tzinfo=UTC)


NOON = local(date(2025, 10, 14))


def looking(db: QuestDB, now: datetime = NOON, **more: Any) -> Context:
    return Context(db, Path(), now, **more)


def put(db: QuestDB, table: str, feed: str, moments: Iterable[datetime], **columns: str) -> None:
    """Writes a row a moment (UTC), past every load."""
    names = ["ts", *columns, "feed", "load_id"]
    rows = [[f"{m:%Y-%m-%dT%H:%M:%S}.000000Z", *columns.values(), feed] for m in moments]
    values = ", ".join("(" + ", ".join(f"'{value}'" for value in row) + ", 1)" for row in rows)
    db.execute(f"insert into {table} ({', '.join(names)}) values {values}")
    db.wait_applied(table)


def put_buckets(db: QuestDB, feed: str, day: date, buckets: Iterable[str]) -> None:
    for bucket in buckets:
        hour, minute = int(bucket[4:6]), int(bucket[7:9])
        put(db, "b3_dxy_ticks", feed, [local(day, hour, minute)], bucket=bucket)


def put_grid(db: QuestDB, day: date, first: tuple[int, int] = (8, 50), last: tuple[int, int] = (18, 30)) -> None:
    """Every five minutes of Yahoo's, in one statement."""
    minutes = range(first[0] * 60 + first[1], last[0] * 60 + last[1] + 1, 5)
    rows = ", ".join(
        f"('{local(day, *divmod(m, 60)):%Y-%m-%dT%H:%M:%S}.000000Z', 'dxy_{m // 60:02}h{m % 60:02}', 'yahoo_dxy', 1)"
        for m in minutes
    )
    db.execute(f"insert into b3_dxy_ticks (ts, bucket, feed, load_id) values {rows}")
    db.wait_applied("b3_dxy_ticks")


def found(context: Context, table: str, within: Window = ALWAYS) -> list[tuple[date, str]]:
    return [(gap.session, gap.part) for gap in find(context, TABLES[table], within)]


def test_holidays_and_weekends_are_no_gaps(db: QuestDB) -> None:
    days = [date(2025, 2, 27), date(2025, 2, 28), date(2025, 3, 5), date(2025, 3, 6), date(2025, 3, 7)]
    put(db, "b3_adjustments", "b3_sprd", map(local, days), instrument="DI1", contract_month="X25")
    assert found(looking(db, local(date(2025, 3, 9))), "b3_adjustments") == []


def test_a_session_in_the_middle_and_the_last_one_are_missed(db: QuestDB) -> None:
    put(db, "b3_adjustments", "b3_sprd", map(local, [OCTOBER[0], *OCTOBER[2:-1]]), instrument="DI1")
    assert found(looking(db), "b3_adjustments") == [(OCTOBER[1], ""), (OCTOBER[-1], "")]


def test_each_feed_is_missed_from_its_own_first_session(db: QuestDB) -> None:
    put(db, "b3_adjustments", "b3_sprd", map(local, OCTOBER), instrument="DI1")
    put(db, "b3_adjustments", "legacy_csv", [local(OCTOBER[-2])], instrument="DI1")
    [gap] = find(looking(db), TABLES["b3_adjustments"])
    assert (gap.feed, gap.session) == ("legacy_csv", OCTOBER[-1])
    assert find(looking(db), TABLES["b3_adjustments"], ALWAYS, "b3_sprd") == []


def test_a_feed_that_no_source_of_ours_brings_is_missed_by_session(db: QuestDB) -> None:
    put(db, "b3_dxy_ticks", "by_hand", [local(OCTOBER[0]), *map(local, OCTOBER[2:])], bucket="x")
    [gap] = find(looking(db), TABLES["b3_dxy_ticks"])
    assert (gap.feed, gap.session, gap.part, gap.available_until) == ("by_hand", OCTOBER[1], "", None)


def test_declared_and_expired_ranges_are_not_missed(db: QuestDB) -> None:
    put(db, "b3_adjustments", "b3_sprd", map(local, [OCTOBER[0], OCTOBER[-1]]), instrument="DI1")
    declared = {"b3_sprd": [window(OCTOBER[1], OCTOBER[2])]}
    expired = {"b3_adjustments": [window(OCTOBER[3], OCTOBER[3])]}
    known = looking(db, known_gaps=declared, expired=expired)
    assert found(known, "b3_adjustments") == [(OCTOBER[4], "")]


def test_a_legacy_session_has_three_buckets(db: QuestDB) -> None:
    for day in (OCTOBER[0], OCTOBER[3], OCTOBER[4], OCTOBER[5]):
        put_buckets(db, "legacy_csv", day, LEGACY)
    put_buckets(db, "legacy_csv", OCTOBER[1], LEGACY[:1])
    assert found(looking(db), "b3_dxy_ticks") == [
        (OCTOBER[1], "dxy_08h55"),
        (OCTOBER[1], "dxy_09h00"),
        (OCTOBER[2], ""),  # all of them
    ]


def test_half_a_day_of_the_chart_is_missed_bucket_by_bucket_but_not_before_its_first_row(db: QuestDB) -> None:
    put_grid(db, OCTOBER[-2], first=(11, 0))
    put_grid(db, OCTOBER[-1], last=(12, 0))
    missing = found(looking(db), "b3_dxy_ticks")
    assert {session for session, _part in missing} == {OCTOBER[-1]}
    assert [missing[0][1], missing[-1][1], len(missing)] == ["dxy_12h05", "dxy_18h30", 78]


def test_a_chart_that_is_read_until_another_time_has_its_buckets_until_then(db: QuestDB) -> None:
    put_grid(db, OCTOBER[-2], last=(12, 0))
    put_grid(db, OCTOBER[-1], last=(11, 50))
    chart = SOURCES["dxy_chart"]
    assert chart.due is not None
    live = (replace(chart, due=replace(chart.due, until=time(12))),)
    assert found(looking(db, live=live), "b3_dxy_ticks", window(OCTOBER[-2], OCTOBER[-1])) == [
        (OCTOBER[-1], "dxy_11h55"),
        (OCTOBER[-1], "dxy_12h00"),
    ]


def test_rows_of_a_bucket_that_no_session_has_fill_nothing(db: QuestDB) -> None:
    for day in OCTOBER:
        put_buckets(db, "legacy_csv", day, LEGACY if day != OCTOBER[1] else LEGACY[:2])
    put(db, "b3_dxy_ticks", "legacy_csv", [local(OCTOBER[1], 10)], bucket="dxy_10h00")
    assert found(looking(db), "b3_dxy_ticks") == [(OCTOBER[1], "dxy_09h00")]


@pytest.mark.parametrize(
    ("now", "missing"),
    [
        (local(date(2025, 10, 14), 8, 59), []),
        (local(date(2025, 10, 14), 9, 4), []),  # 15 minutes may pass
        (local(date(2025, 10, 14), 9, 5), [""]),
        (local(date(2025, 10, 14), 9, 16), [""]),
        (local(date(2025, 10, 18)), [""]),
    ],
)
def test_buckets_of_a_live_chart_are_missed_when_they_are_due(db: QuestDB, now: datetime, missing: list[str]) -> None:
    put_grid(db, OCTOBER[-1])
    live = (SOURCES["dxy_chart"],)
    today = [part for session, part in found(looking(db, now, live=live), "b3_dxy_ticks") if session.day == 14]
    assert today == missing


@pytest.mark.parametrize(
    ("now", "missing"),
    [
        (local(date(2025, 10, 14), 20, 29), []),
        (local(date(2025, 10, 14), 20, 30), [date(2025, 10, 14)]),
        (local(date(2025, 10, 15), 9), [date(2025, 10, 14)]),
    ],
)
def test_the_present_session_is_missed_when_its_data_is_due(db: QuestDB, now: datetime, missing: list[date]) -> None:
    put(db, "b3_adjustments", "b3_sprd", map(local, OCTOBER), instrument="DI1")
    context = looking(db, now, live=(SOURCES["settlement_report"],))
    assert [gap.session for gap in find(context, TABLES["b3_adjustments"])] == missing


def test_captures_are_missed_by_endpoint_each_from_its_own_first(db: QuestDB) -> None:
    put(db, "b3_captures", "legacy_capture", map(local, [OCTOBER[0], OCTOBER[2], *OCTOBER[3:]]), endpoint="ultimo-dado")
    put(db, "b3_captures", "legacy_capture", [local(OCTOBER[-2])], endpoint="gamma")
    assert found(looking(db), "b3_captures") == [(OCTOBER[1], "ultimo-dado"), (OCTOBER[-1], "gamma")]


def test_a_window_is_looked_at_alone_and_a_feed_may_have_begun_before_it(db: QuestDB) -> None:
    put_buckets(db, "legacy_csv", OCTOBER[0], LEGACY)
    inside = window(OCTOBER[2], OCTOBER[3])
    assert found(looking(db), "b3_dxy_ticks", inside) == [(OCTOBER[2], ""), (OCTOBER[3], "")]


@pytest.mark.parametrize(
    ("table", "feed", "columns", "until"),
    [
        ("b3_adjustments", "b3_sprd", {"instrument": "DI1"}, date(2025, 11, 5)),  # 21 sessions after the 7th
        ("b3_vol_surface", "b3_vol_xlsx", {"contract_month": "nov-25"}, date(2025, 10, 8)),
        ("b3_dxy_ticks", "yahoo_dxy", {"bucket": "dxy_08h50"}, date(2025, 12, 3)),
        ("b3_adjustments", "legacy_csv", {"instrument": "DI1"}, None),
        ("b3_captures", "composed", {"endpoint": "ultimo-dado"}, None),
    ],
)
def test_a_gap_says_until_when_the_source_has_it(
    db: QuestDB, table: str, feed: str, columns: dict[str, str], until: date | None
) -> None:
    put(db, table, feed, [local(OCTOBER[0])], **columns)
    assert {gap.available_until for gap in find(looking(db), TABLES[table]) if gap.session == OCTOBER[1]} == {until}


def test_a_year_of_ticks_takes_few_questions(db: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    db.execute(
        "insert into b3_dxy_ticks (ts, bucket, feed, load_id) select dateadd('m', 5 * (x::int % 117), dateadd('d', "
        "(x / 117)::int, '2024-10-14T11:50:00.000000Z')), concat('dxy_', to_str(dateadd('m', 5 * (x::int % 117), "
        "'2024-10-14T08:50:00.000000Z'), 'HH'), 'h', to_str(dateadd('m', 5 * (x::int % 117), "
        "'2024-10-14T08:50:00.000000Z'), 'mm')), 'yahoo_dxy', 1 from long_sequence(117 * 366) "
    )
    db.wait_applied("b3_dxy_ticks")
    asked = 0
    query = QuestDB.query

    def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return query(*args)

    monkeypatch.setattr(QuestDB, "query", counted)
    assert find(looking(db), TABLES["b3_dxy_ticks"]) == []
    assert asked <= 4


# Showing

TODAY = date(2025, 10, 14)


def gap(until: date | None, session: date = OCTOBER[0], part: str = "") -> Gap:
    return Gap("b3_sprd", "b3_adjustments", session, part, until)


def test_what_a_source_forgets_soonest_comes_first_and_what_is_lost_last() -> None:
    lost, gone, soon, later = gap(None), gap(date(2025, 10, 13)), gap(TODAY), gap(date(2025, 10, 20))
    assert most_urgent_first([lost, later, gone, soon], TODAY)[:2] == [soon, later]


@pytest.mark.parametrize(
    ("until", "left"),
    [(None, None), (date(2025, 10, 13), None), (TODAY, 0), (date(2025, 10, 19), 3), (date(2025, 10, 20), 4)],
)
def test_sessions_left_leave_out_days_without_one(until: date | None, left: int | None) -> None:
    assert gap(until).sessions_left(TODAY) == left


def test_buckets_of_one_session_are_shown_together() -> None:
    some = [gap(None, part=f"dxy_{hour:02}h00") for hour in range(9, 14)]
    [group, other] = together([*some, gap(None, OCTOBER[1])])
    assert (parts(group), parts(other)) == ("dxy_09h00 … dxy_13h00 (5)", "")
    assert parts(some[:2]) == "dxy_09h00, dxy_10h00"


def test_advice_names_the_nearest_deadline() -> None:
    text = advice([gap(None), gap(date(2025, 10, 16))], TODAY)
    assert "b3_sprd has 2025-10-06 until 2025-10-16: 2 sessions left" in text


def checked(context: Context) -> Finding:
    [check] = [check for check in checks_of(TABLES["b3_adjustments"]) if check.name == "gaps"]
    return check.run(context, ALWAYS)


def test_a_marked_gap_is_counted_and_not_red(db: QuestDB) -> None:
    put(db, "b3_adjustments", "b3_sprd", map(local, [OCTOBER[0], *OCTOBER[3:]]), instrument="DI1")
    context = looking(db)
    first, second = find(context, TABLES["b3_adjustments"])
    finding = checked(replace(context, marked_gaps={first.key}))
    assert (finding.numbers["missing_sessions"], finding.numbers["marked_as_known"]) == (1, 1)
    [row] = finding.offending
    assert (row["partition"], row["available_until"]) == (second.session.isoformat(), "2025-11-06")
    assert row["sessions_left"] == 17
    both = checked(replace(context, marked_gaps={first.key, second.key}))
    assert both.passed
    assert both.numbers["marked_as_known"] == 2
