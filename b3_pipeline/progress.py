"""How long work tells a person what goes on: sentences, and a bar while bytes arrive. Always on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Advance = Callable[[int], None]


class Report:
    """Takes messages and shows none: for JSON mode, tests, and whoever does not care."""

    def __call__(self, message: str) -> None:
        """One sentence about what begins or has been reached."""

    @contextmanager
    def bytes(self, name: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """While `total` bytes of `name` arrive: gives a function to call with the size of each piece."""
        yield lambda _count: None


SILENT = Report()


class ConsoleReport(Report):
    """Shows messages and bars on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def __call__(self, message: str) -> None:
        self.console.print(message, style="dim", highlight=False)

    @contextmanager
    def bytes(self, name: str, total: int) -> Iterator[Advance]:
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, console=self.console) as bar:
            task = bar.add_task(name, total=total)
            yield lambda count: bar.update(task, advance=count)
