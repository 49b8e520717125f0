"""How figures are shown: as tables on the terminal, and as Markdown between the marks of `docs/benchmarks.md`."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from b3_pipeline.questdb import jar
from bench.registry import Figures

_NUMERIC = re.compile(r"[\d.,]+( %| MB)?")


def show(console: Console, figures: Figures) -> None:
    """Prints a table."""
    table = Table(title=figures.title, caption=figures.note or None, title_justify="left", caption_justify="left")
    for place, name in enumerate(figures.header):
        table.add_column(name, justify="right" if _is_numeric(figures, place) else "left")
    for row in figures.rows:
        table.add_row(*row)
    console.print(table)


def markdown(figures: Figures) -> str:
    """The table in Markdown, its note below."""
    marks = ["---:" if _is_numeric(figures, place) else "---" for place in range(len(figures.header))]
    lines = [figures.header, marks, *figures.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {figures.title}\n\n{table}\n" + (f"\n{figures.note}\n" if figures.note else "")


def machine() -> Figures:
    """What it was measured on; no name of it, no path."""
    memory = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "numpy", "questdb", "dagster"))
    rows = [
        ("cores", str(os.cpu_count())),
        ("memory", f"{memory:.0f} GiB"),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("Python", platform.python_version()),
        ("QuestDB", jar.VERSION),
        ("packages", packages),
    ]
    return Figures("Machine", ("what", "which"), rows)


def put(document: str, name: str, text: str) -> str:
    """The document with new text between the marks of that name. Raises ValueError when it has none."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, mark, rest = document.partition(begin)
    _, closing, after = rest.partition(end)
    if not (mark and closing):
        raise ValueError(f"The document has no {begin} … {end} to put figures into.")
    return f"{before}{begin}\n{text}{end}{after}"


def write(path: Path, results: dict[str, list[Figures]]) -> None:
    """Puts each benchmark's figures, and the machine, into the document."""
    document = put(path.read_text("utf-8"), "machine", markdown(machine()))
    for name, figures in results.items():
        document = put(document, name, "\n".join(map(markdown, figures)))
    path.write_text(document, "utf-8")


def _is_numeric(figures: Figures, place: int) -> bool:
    return all(_NUMERIC.fullmatch(row[place]) for row in figures.rows)
