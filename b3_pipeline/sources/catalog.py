"""The table of sources: which one feeds which tables, how and when it is fetched, and by when its data is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from b3_pipeline.parsing import kinds
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, LEGACY_KINDS, Kind
from b3_pipeline.settings import Settings
from b3_pipeline.sources import clients
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.fetching import Fetch
from b3_pipeline.sources.times import Due, Times

_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Source:
    """A source of payloads of one kind; it has the kind's name in the archive, in metrics, and as a sensor.

    The collector asks one with `fetch` at its `times`; at the `late` ones, which lie before those, for the session before,
    when the archive lacks it. A `file` of the legacy folder is read at its `times`; one that has `fetch`, too, is watched
    where there is a folder, and asked for by URL where there is none. An `inbox` is a folder of its own, in which any file
    is read on as it grows. One with none of these is made by the project itself.
    `due` says by when a session's data must be stored, `sessions_kept` for how many sessions the source still gives an
    older one (0: never again; 1: until the next session's is out).
    """

    kind: Kind
    what: str
    fetch: Fetch | None = None
    file: str | None = None
    times: Times | None = None
    late: Times | None = None
    due: Due | None = None
    sessions_kept: int = 0
    inbox: bool = False
    configured: Callable[[Settings], bool] = lambda _settings: True

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def watchable(self) -> bool:
        """Whether each state of its file is taken as soon as it is there, where there is a folder."""
        return self.file is not None and self.fetch is not None


def _has_folder(settings: Settings) -> bool:
    return settings.legacy_dir is not None


def _has_url(settings: Settings) -> bool:
    return settings.legacy_url is not None


def _has_inbox(settings: Settings) -> bool:
    return settings.signals_inbox is not None


def _has_gamma(settings: Settings) -> bool:
    return settings.gamma_url is not None


_EVERY_QUARTER_MINUTE = Times(time(0), time(23, 59), _MINUTE / 4)
_DXY_FROM, _DXY_UNTIL = time(8, 50), Settings().dxy_until
#: The last bar shows some minutes after its time.
_DXY_ASKED_UNTIL = (datetime.combine(date.min, _DXY_UNTIL) + 20 * _MINUTE).time()
_BY_URL: dict[str, Fetch] = {CAPTURE.name: clients.legacy_capture, GAMMA.name: clients.legacy_gamma}


def _legacy(kind: Kind) -> Source:
    if kind in (CAPTURE, GAMMA):
        return Source(
            kind,
            "the legacy collector's own document, each state of it",
            _BY_URL[kind.name],
            file=kind.file,
            times=_EVERY_QUARTER_MINUTE,
            due=Due(time(9, 30)),
            configured=lambda settings: _has_folder(settings) or _has_url(settings),
        )
    return Source(
        kind,
        "the legacy collector's own file, read again once a day",
        file=kind.file,
        times=Times(time(20), time(23, 30), 30 * _MINUTE, once=True),
        due=Due(time(21)),
        configured=_has_folder,
    )


#: Every source, by name, in the order in which their loads take precedence at the same moment.
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        *map(_legacy, LEGACY_KINDS),
        Source(
            kinds.REPORT,
            "B3's price report, out around 19:25",
            clients.settlements,
            times=Times(time(19, 25), time(23, 45), 5 * _MINUTE, once=True),
            due=Due(time(20, 30)),
            sessions_kept=21,
        ),
        Source(
            kinds.FINANCIAL_INDICATORS,
            "B3's financial indicators, each with the day of its last change",
            clients.indicators,
            times=Times(time(8), time(22), 10 * _MINUTE),
            due=Due(time(10), back=1),
        ),
        Source(
            kinds.VOL_SURFACE,
            "B3's surface of dollar volatilities, overwritten daily after 18:00",
            clients.vol_surface,
            times=Times(time(18), time(23, 45), 10 * _MINUTE, once=True),
            late=Times(time(8), time(17), 60 * _MINUTE, once=True, back=1),
            due=Due(time(20, 30)),
            sessions_kept=1,
        ),
        Source(
            kinds.DXY_CHART,
            "Yahoo's chart of the dollar index",
            clients.dxy,
            times=Times(_DXY_FROM, _DXY_ASKED_UNTIL, 5 * _MINUTE, offset=timedelta(seconds=20)),
            due=Due(time(9, 0), age=15 * _MINUTE, until=_DXY_UNTIL),
            sessions_kept=40,
        ),
        Source(
            kinds.GAMMA_LEVELS,
            "gamma levels of an authenticated provider",
            clients.gamma,
            times=Times(time(8, 30), time(18, 30), 5 * _MINUTE),
            due=Due(time(9, 30)),
            configured=_has_gamma,
        ),
        Source(kinds.COMPOSED, "our own morning capture, composed of the other feeds"),
        Source(kinds.SIGNALS, "TP-Capital's signals, each as it comes in", inbox=True, configured=_has_inbox),
    )
}


def enabled(settings: Settings) -> dict[str, Source]:
    """The sources that this home asks: those that are configured, less those that a setting has switched off."""
    return {
        name: source
        for name, source in SOURCES.items()
        if source.configured(settings) and name not in settings.sources_off
    }


def collected(settings: Settings) -> dict[str, Source]:
    """The sources whose data is expected: those that are asked, or those of the recording that is replayed."""
    if settings.replay_dir is None:
        return enabled(settings)
    recorded = set(Archive(settings.replay_dir).sources()) - set(settings.sources_off)
    return {name: source for name, source in SOURCES.items() if name in recorded}
