"""The benchmarks by name: what one is given, and what it gives back to be shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What a benchmark is given: sizes in records, repetitions of each measurement, a folder that is gone afterwards.

    `session` is the part of a session that is replayed.
    """

    sizes: tuple[int, ...]
    repeat: int
    session: float
    folder: Path
    say: Callable[[str], None]


@dataclass(frozen=True)
class Figures:
    """A table of results, as text; `note` says how to read it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""


Benchmark = Callable[[Options], list[Figures]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Enters a function under a name for `make bench ONLY=name`; `bench/__main__.py` imports its module."""

    def enter(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        return function

    return enter
