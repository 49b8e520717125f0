"""Running `b3` in this process, as its tests do."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from b3_pipeline.cli import app


def b3(*arguments: object, code: int = 0, given: str | None = None) -> Result:
    """Runs a command that must end with this exit code; `given` is what a person types."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=given)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def answer(*arguments: object, code: int = 0) -> Any:
    """What a command prints on standard output: one JSON document."""
    return json.loads(b3(*arguments, "--json", code=code).stdout)
