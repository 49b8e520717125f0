"""Partitions: one a trading session of B3, by local date; and the window of time that a run is about.

Dagster lists a partition when its window of time is over, and a session must be listed while it runs. To list it before
its time (`end_offset=1`) lists the next session early on a holiday (dagster#33551). So in Dagster's eyes the days are
those of the zone farthest east: there a day is over at 07:00 in São Paulo (08:00 in the former summer time), before B3
opens and on no other day. What belongs to a session is ours to say, in local time: `sessions.window`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import date, datetime, time

import dagster as dg

from b3_pipeline import sessions
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.settings import Settings

# Every Dagster package is pinned to one release, so a beta parameter does not change under us.
warnings.filterwarnings(
    "ignore", "Parameter `backfill_policy` of function `asset` is currently in beta", dg.BetaWarning
)
_FARTHEST_EAST = "Etc/GMT-14"  # UTC+14, by POSIX's sign
_DAYS, _WEEKENDS = "0 0 * * *", "0 0 * * 0,6"


def session_partitions(first: date) -> dg.TimeWindowPartitionsDefinition:
    """One partition for each session from `first` to today's, which is there from 07:00 local on; its key is the ISO date."""
    return dg.TimeWindowPartitionsDefinition(
        start=_midnight(first),
        fmt="%Y-%m-%d",
        cron_schedule=_DAYS,
        timezone=_FARTHEST_EAST,
        exclusions=[_WEEKENDS, *map(_midnight, sessions.weekday_holidays(first))],
    )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())  # naive, for Dagster puts it into the zone of the partitions


SESSIONS = session_partitions(Settings().first_session)
#: A range is one run: each would read the same files and cost seconds to start, and `dg launch` takes no other policy.
BACKFILL = dg.BackfillPolicy.single_run()


def keys_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Sequence[str]:
    """The partitions that a run is about; none when it is about everything."""
    if not (context.has_partition_key or context.has_partition_key_range):
        return []
    asked = context.partition_key_range if context.has_partition_key_range else None
    return SESSIONS.get_partition_keys_in_range(asked) if asked else [context.partition_key]


def window_of(keys: Sequence[str]) -> Window:
    """The time of a range of partitions; `ALWAYS` for none.

    What is older than the first of all partitions goes with that one, what is newer than the last with the last: a
    record must not be left out because the calendar of partitions does not reach it.
    """
    if not keys:
        return ALWAYS
    window = sessions.window(date.fromisoformat(keys[0]), date.fromisoformat(keys[-1]))
    return Window(
        None if keys[0] == SESSIONS.get_first_partition_key() else window.start,
        None if keys[-1] == SESSIONS.get_last_partition_key() else window.end,
    )
