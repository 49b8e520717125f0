"""How commands speak: what was asked for on standard output, as JSON or tables; all else on standard error."""

from __future__ import annotations

import functools
import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from b3_pipeline.errors import B3Error, UsageError

console = Console(stderr=True, highlight=False)  # progress, advice, errors
results = Console(highlight=False)  # what was asked for
#: Control characters as pictures of themselves, so that a file cannot talk to the terminal.
_PICTURES = {code: 0x2400 + code for code in range(32) if code != 10} | {127: 0x2421}
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Command = TypeVar("Command", bound=Callable[..., Any])


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z" if value.tzinfo is None else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)


def emit(document: object) -> None:
    """Prints the one JSON document; moments without a zone are UTC."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=_plain) + "\n")
    sys.stdout.flush()


def emit_each(documents: Iterable[object]) -> None:
    """Prints one JSON list, a document a line as it comes: any number in bounded memory."""
    before = "["
    for document in documents:
        sys.stdout.write(f"{before}\n{json.dumps(document, ensure_ascii=False, default=_plain)}")
        before = ","
    sys.stdout.write("\n]\n" if before == "," else "[]\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """A line for people."""
    console.print(message)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str] = ()) -> None:
    """A table for people; the columns in `numbers` are set to the right, with thousands apart.

    Cells are shown as they are: what came from a file is no markup.
    """
    if title:
        results.print(title, style="bold", markup=False)
    out = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        right = column in numbers
        out.add_column(
            column, justify="right" if right else "left", no_wrap=right or column == columns[0], overflow="fold"
        )
    for row in rows:
        out.add_row(*map(_cell, row))
    # a number that is cut off reads as another number: then rather a table that is too wide
    width = results.measure(out).maximum if numbers else results.width
    results.print(out, width=max(width, results.width), crop=False)


def age(seconds: float | None) -> str:
    """An age as people say it: 2 d 18 h, 3 h 5 min, 40 s."""
    if seconds is None:
        return ""
    parts = [(int(seconds // 86_400), "d"), (int(seconds // 3_600 % 24), "h"), (int(seconds // 60 % 60), "min")]
    shown = [f"{n} {unit}" for n, unit in parts if n][:2]
    return " ".join(shown) or f"{seconds:.0f} s"


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    return Text("" if value is None else str(value).translate(_PICTURES))


def guarded(command: Command) -> Command:
    """Ends a command with a sentence and its exit code where an error is one that people can do something about."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except B3Error as error:
            _fail(str(error), kwargs)
            raise typer.Exit(error.exit_code) from None
        except tomllib.TOMLDecodeError as error:
            _fail(f"settings.toml in the home cannot be read: {error}.", kwargs)
            raise typer.Exit(UsageError.exit_code) from None
        except ValidationError as error:
            _fail(_wrong_settings(error), kwargs)
            raise typer.Exit(UsageError.exit_code) from None
        except KeyboardInterrupt:
            _fail("Interrupted. Nothing is lost: run it again, and it goes on where it stopped.", kwargs)
            raise typer.Exit(130) from None
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
    console.print(f"[bold red]Error:[/] {escape(message)}")
