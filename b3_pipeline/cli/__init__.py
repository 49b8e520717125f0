"""The command `b3`: every part of the pipeline for people at a terminal and, with --json, for machines."""

from __future__ import annotations

import typer

from b3_pipeline.cli import data, schema, services

app = typer.Typer(
    name="b3",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Moves a trading desk's B3 market data to QuestDB, and proves that nothing was lost.\n\n"
    "Start with [bold]b3 up --sample[/], or [bold]b3 migrate --legacy DIR[/] for a folder of your own.",
)
for part in (services, data, schema):
    part.register(app)


def main() -> None:
    """Entry point of the console script."""
    app()
