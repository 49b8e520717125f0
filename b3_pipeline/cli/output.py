"""How commands speak: JSON on standard output for machines, Rich on standard error for people, errors as sentences."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from b3_pipeline.errors import B3Error, UsageError

console = Console(stderr=True, highlight=False)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Command = TypeVar("Command", bound=Callable[..., Any])


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z" if value.tzinfo is None else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def emit(document: object) -> None:
    """Prints the one JSON document; moments without a zone are UTC."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=_plain) + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """A line for people."""
    console.print(message)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str] = ()) -> None:
    """A table for people; the columns in `numbers` are set to the right, with thousands apart."""
    if title:
        console.print(f"[bold]{title}[/]")
    out = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        right = column in numbers
        out.add_column(
            column, justify="right" if right else "left", no_wrap=right or column == columns[0], overflow="fold"
        )
    for row in rows:
        out.add_row(
            *(f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else "" if v is None else str(v) for v in row)
        )
    console.print(out)


def guarded(command: Command) -> Command:
    """Ends a command with a sentence and its exit code where an error is one that people can do something about."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except B3Error as error:
            _fail(str(error), kwargs)
            raise typer.Exit(error.exit_code) from None
        except ValidationError as error:
            _fail(_wrong_settings(error), kwargs)
            raise typer.Exit(UsageError.exit_code) from None
        except OSError as error:
            _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", kwargs)
            raise typer.Exit(1) from None

    return run  # pyright: ignore[reportReturnType]


def _wrong_settings(error: ValidationError) -> str:
    """What is wrong with the settings, by variable; their values may be secrets and are not shown."""
    wrong = [f"B3_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
    return f"Wrong settings (environment or settings.toml): {'; '.join(wrong)}."


def _fail(message: str, given: dict[str, Any]) -> None:
    if given.get("as_json"):
        emit({"ok": False, "error": message})
    console.print(f"[bold red]Error:[/] {message}", markup=True)
