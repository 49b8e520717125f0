"""The log of migrations: a dated, readable file for each migration, step of a cutover, backup's restore and rollback.

They lie in `B3_HOME/migrations/`, are never changed afterwards, and have an index, `README.md`, made anew with each.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from b3_pipeline.credentials import write_private
from b3_pipeline.postgres.flags import user

FOLDER, INDEX = "migrations", "README.md"
_JSON = re.compile(r"```json\n(.*?)\n```", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """What was done: `kind` is a word (migrate, cutover, rollback, restore, …), `title` a line, `at` aware UTC.

    `outcome` is done, refused or failed; `counts` and `checksums` are by what they are of; `way_back` says how to undo it.
    """

    kind: str
    title: str
    at: datetime
    outcome: str
    seconds: float
    way_back: str
    why: str = ""
    who: str = field(default_factory=user)
    counts: Mapping[str, Any] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def write(home: Path, step: Step) -> Path:
    """Writes the file of a step and the index; returns the file. Raises OSError."""
    folder = home / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{step.at:%Y%m%d-%H%M%S}-{step.kind}-{secrets.token_hex(2)}.md"
    write_private(path, _text(step))
    write_private(folder / INDEX, _index(folder))
    return path


def steps(home: Path) -> list[dict[str, Any]]:
    """What the files say, oldest first: the members of `Step`, `file` and `release`. A damaged file is left out."""
    found = []
    for path in sorted((home / FOLDER).glob("*-*-*.md")):
        with suppress(OSError, ValueError, TypeError, IndexError):
            found.append({"file": path.name, **json.loads(_JSON.findall(path.read_text("utf-8"))[-1])})
    return found


def _text(step: Step) -> str:
    document = asdict(step) | {"at": step.at.isoformat(), "release": version("b3-pipeline")}
    lines = [
        f"# {step.title}",
        "",
        f"- **when**: {step.at:%Y-%m-%d %H:%M:%S} UTC, {step.seconds:.1f} s",
        f"- **who**: {step.who}",
        *([f"- **why**: {step.why}"] if step.why else []),
        f"- **outcome**: {step.outcome}",
        f"- **release**: b3_pipeline {document['release']}",
        f"- **way back**: {step.way_back}",
        "",
        *_section("Counts", step.counts),
        *_section("Checksums (SHA-256)", step.checksums),
        *(["## Files", "", *(f"- `{name}`" for name in step.files), ""] if step.files else []),
        "## The same for machines",
        "",
        "```json",
        json.dumps(document, ensure_ascii=False, indent=1, default=str),
        "```",
        "",
    ]
    return "\n".join(lines)


def _section(title: str, values: Mapping[str, Any]) -> list[str]:
    if not values:
        return []
    return [f"## {title}", "", "| of | |", "|---|---|", *(f"| {name} | {_cell(v)} |" for name, v in values.items()), ""]


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


def _index(folder: Path) -> str:
    rows = [
        f"| {step['at'][:19].replace('T', ' ')} | {step['kind']} | [{_cell(step['title'])}]({step['file']}) | {step['who']} "
        f"| {step['outcome']} |"
        for step in reversed(steps(folder.parent))
    ]
    head = ["# Migrations", "", "| when (UTC) | kind | what | who | outcome |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])
