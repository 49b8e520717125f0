"""Which backups are kept: a rule over their moments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from b3_pipeline.sessions import ZONE


def kept(moments: Mapping[str, datetime], daily: int, weekly: int, monthly: int) -> set[str]:
    """Which of the backups, given with their moments (aware), are kept.

    The last one of each of the last `daily` days that have one, of the last `weekly` weeks and the last `monthly`
    months; days are local, a week begins on Monday. The newest of all is always kept.
    """
    in_order = sorted(moments, key=lambda name: (moments[name], name))
    stays = set(in_order[-1:])
    for number, period in ((daily, _day), (weekly, _week), (monthly, _month)):
        last = {period(moments[name]): name for name in in_order}  # the last one of each, in time's order
        stays.update(list(last.values())[max(0, len(last) - number) :])
    return stays


def _day(moment: datetime) -> date:
    return moment.astimezone(ZONE).date()


def _week(moment: datetime) -> date:
    day = _day(moment)
    return day - timedelta(days=day.weekday())


def _month(moment: datetime) -> date:
    return _day(moment).replace(day=1)
