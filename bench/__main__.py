"""`make bench`: runs the benchmarks, prints their figures and writes them into `docs/benchmarks.md`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from b3_pipeline.settings import PROJECT
from bench import api, cutover, export, history, live, load, lowdb, lowdb_api, validate  # noqa: F401  (they enter themselves into the registry)
from bench.registry import BENCHMARKS, Figures, Options
from bench.report import show, write

DOCUMENT = PROJECT / "docs" / "benchmarks.md"


def main(
    only: Annotated[str, typer.Option(help=f"One of them: {', '.join(BENCHMARKS)}.")] = "",
    sizes: Annotated[str, typer.Option(help="Sizes in millions of records, separated by commas.")] = "0.5,5",
    repeat: Annotated[int, typer.Option(help="Repetitions of each measurement.", min=1)] = 3,
    session: Annotated[float, typer.Option(help="The part of a session that `live` replays.", min=0.05, max=1)] = 1 / 3,
    into: Annotated[Path, typer.Option(help="The document whose figures are replaced.")] = DOCUMENT,
) -> None:
    """Runs benchmarks against servers of their own, in a temporary folder (50 million records take 12 GB there)."""
    if only and only not in BENCHMARKS:
        raise typer.BadParameter(f"{only} is none of {', '.join(BENCHMARKS)}")
    console = Console()
    records = tuple(round(float(size) * 1_000_000) for size in sizes.split(","))
    results: dict[str, list[Figures]] = {}
    for name in [only] if only else BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="b3-bench-") as folder:
            results[name] = BENCHMARKS[name](Options(records, repeat, session, Path(folder), console.print))
        for figures in results[name]:
            show(console, figures)
    write(into, results)


typer.run(main)
