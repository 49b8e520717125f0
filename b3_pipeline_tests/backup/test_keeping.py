"""Which backups are kept, whatever their moments are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.backup.keeping import kept
from b3_pipeline.sessions import ZONE

BEGINS = datetime(2024, 12, 20, tzinfo=UTC)
MOMENTS = st.lists(st.integers(0, 800 * 24), max_size=60, unique=True).map(
    lambda hours: {f"b{hour}": BEGINS + timedelta(hours=hour) for hour in hours}
)
NUMBERS = st.tuples(st.integers(1, 10), st.integers(0, 8), st.integers(0, 14))


def local(moment: datetime) -> datetime:
    return moment.astimezone(ZONE)


@given(MOMENTS, NUMBERS)
def test_the_newest_is_always_kept_and_no_more_than_the_rules_ask_for(
    moments: dict[str, datetime], numbers: tuple[int, int, int]
) -> None:
    stays = kept(moments, *numbers)
    assert stays <= moments.keys()
    assert len(stays) <= sum(numbers)
    if moments:
        assert max(moments, key=lambda name: moments[name]) in stays


@given(MOMENTS, NUMBERS)
def test_of_each_of_the_last_days_weeks_and_months_the_last_one_is_kept(
    moments: dict[str, datetime], numbers: tuple[int, int, int]
) -> None:
    stays = kept(moments, *numbers)
    periods = ("%Y-%m-%d", "%G-%V", "%Y-%m")
    for number, form in zip(numbers, periods, strict=True):
        there = sorted({local(at).strftime(form) for at in moments.values()})
        for period in there[max(0, len(there) - number) :]:
            of_it = [name for name, at in moments.items() if local(at).strftime(form) == period]
            assert max(of_it, key=lambda name: moments[name]) in stays


@given(MOMENTS, NUMBERS)
def test_what_is_kept_is_kept_again_when_nothing_came(
    moments: dict[str, datetime], numbers: tuple[int, int, int]
) -> None:
    stays = kept(moments, *numbers)
    assert kept({name: moments[name] for name in stays}, *numbers) == stays


@given(MOMENTS, NUMBERS, st.integers(1, 400))
def test_a_backup_that_was_not_kept_would_not_be_kept_later(
    moments: dict[str, datetime], numbers: tuple[int, int, int], days: int
) -> None:
    later = {"later": max([*moments.values(), BEGINS]) + timedelta(days=days)}
    gone = moments.keys() - kept(moments, *numbers)
    assert not gone & kept({**moments, **later}, *numbers)
