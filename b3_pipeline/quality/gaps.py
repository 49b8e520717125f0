"""Sessions that nobody misses: those that the desk has declared as known gaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from b3_pipeline.sessions import Window, window
from b3_pipeline.settings import KnownGap


def known_gaps(declared: Iterable[KnownGap]) -> Mapping[str, Sequence[Window]]:
    """The declared gaps by feed, as `Context.known_gaps` has them."""
    gaps: dict[str, list[Window]] = {}
    for gap in declared:
        gaps.setdefault(gap.feed, []).append(window(gap.first, gap.last))
    return gaps
