"""The command `b3`: every part of the pipeline for people at a terminal and, with --json, for machines."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from b3_pipeline.cli import (
    backup,
    collect,
    cutover,
    data,
    exports,
    flags,
    gaps,
    lowdb,
    postgres,
    quality,
    quarantine,
    retention,
    schema,
    services,
    signals,
    warehouse,
)

app = typer.Typer(
    name="b3",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Moves a trading desk's B3 market data to QuestDB, and proves that nothing was lost.\n\n"
    "Start with [bold]b3 up --sample[/], or [bold]b3 migrate --legacy DIR[/] for a folder of your own.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("b3-pipeline"))
        raise typer.Exit


@app.callback()
def b3(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    pass


for part in (
    services,
    collect,
    cutover,
    data,
    quarantine,
    schema,
    signals,
    lowdb,
    quality,
    flags,
    gaps,
    backup,
    exports,
    warehouse,
    retention,
    postgres,
):
    part.register(app)


def main() -> None:
    """Entry point of the console script."""
    app()
