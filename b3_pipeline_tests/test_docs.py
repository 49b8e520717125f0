"""What the documents say is held to be true: dependencies, commands, links; and what no file of the project may name."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from b3_pipeline.cli import app

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
MADE_BY_TOOLS = {"__pycache__", "node_modules"}


def name_of(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


# Dependencies


def requirements() -> list[str]:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"].values()
    wanted = [*project["project"]["dependencies"], *(requirement for group in groups for requirement in group)]
    return sorted(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower() for requirement in wanted)


def test_every_direct_dependency_has_its_line_and_no_line_is_stale() -> None:
    text = (REPO / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)) == requirements()


# Commands


def shown_commands(text: str) -> Iterator[list[str]]:
    """The `b3 …` commands in the fenced sh blocks of a document, without comments."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command: list[str] = []
            for word in [*shlex.split(line, comments=True), "|"]:
                if word in ("|", "&&", ";"):
                    if command[:1] == ["b3"]:
                        yield command[1:]
                    command = []
                elif command or "=" not in word:
                    command.append(word)


def shown() -> list[tuple[str, list[str]]]:
    return [(name_of(path), words) for path in DOCUMENTS for words in shown_commands(path.read_text(encoding="utf-8"))]


def parse(words: list[str]) -> None:
    """Lets the command line parse a command as it would before running it; raises for what it would refuse."""
    command, name = typer.main.get_command(app), "b3"
    while isinstance(command, TyperGroup) and not (
        command.invoke_without_command and not command.commands.keys() & words[:1]
    ):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)


@pytest.mark.parametrize(("document", "words"), [pytest.param(d, w, id=f"{d}: b3 {' '.join(w)}") for d, w in shown()])
def test_a_command_that_is_shown_is_one_that_b3_takes(document: str, words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("line", ["b3 nothing", "b3 status --nothing", "b3 settlements", "b3 schema nothing", "b3"])
def test_a_command_that_b3_does_not_take_is_noticed(line: str) -> None:
    [words] = shown_commands(f"```sh\n{line}\n```\n")
    with pytest.raises(Exception, match=r"nothing|file|unpack"):
        parse(words)


def test_commands_are_found_behind_variables_pipes_and_comments() -> None:
    block = "```sh\nB3_HOME=x b3 sample ./s && b3 status --json | jq .tables  # b3 not this\nmake up\n```\n"
    assert list(shown_commands(block)) == [["sample", "./s"], ["status", "--json"]]


def test_every_command_is_shown_in_some_document() -> None:
    whole = typer.main.get_group(app)
    assert {words[0] for _, words in shown()} == set(whole.commands)


# Links


def links(text: str) -> list[str]:
    without_code = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"", without_code)
    return [link for pair in found for link in pair if link]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        known = target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))
        if not known:
            broken.append(link)
    assert broken == []


def test_every_decision_is_numbered_in_a_row_and_linked_from_the_readme() -> None:
    decisions = sorted((REPO / "docs" / "adr").glob("*.md"))
    assert [path.name[:5] for path in decisions] == [f"{number:04}-" for number in range(1, len(decisions) + 1)]
    assert set(map(name_of, decisions)) <= set(links((REPO / "README.md").read_text(encoding="utf-8")))


# What no file names: where it was written, and from where packages came there

A_MACHINES_PATH = re.compile(r"(?<![\w.$}>])/(?:work|tmp|root|home|Users)/\w")
A_REGISTRYS_HOST = re.compile(
    r"(?:https?://|\b)[\w.-]*(?:pypi|pythonhosted|maven|sonatype|npmjs|anaconda|artifactory|nexus)[\w-]*\.(?:org|com|io|net)\b"
    r"|^\s*(?:-i|-f|--(?:extra-)?index-url|--find-links|--trusted-host)\b",
    re.MULTILINE,
)


def project_files() -> list[Path]:
    """Every text file of the project; folders that tools make are none of it, hidden ones of ours are."""
    ours = [p for p in REPO.iterdir() if not p.name.startswith(".") or p.name in (".ci", ".gitignore", ".github")]
    files = [p for top in ours for p in ([top] if top.is_file() else top.rglob("*")) if p.is_file()]
    return [p for p in files if not MADE_BY_TOOLS & set(p.parts) and b"\0" not in p.read_bytes()[:8000]]


@pytest.mark.parametrize(
    "forbidden", [A_MACHINES_PATH, A_REGISTRYS_HOST], ids=["a machine's path", "a registry's host"]
)
def test_no_file_of_the_project_names_it(forbidden: re.Pattern[str]) -> None:
    named = [
        f"{name_of(path)}: {match[0]}"
        for path in project_files()
        for match in forbidden.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert named == []


@pytest.mark.parametrize(
    "text",
    [
        "see /" + "work/main",
        "cd /" + "tmp/x",
        "https://" + "pypi" + ".org/simple",
        "repo1." + "maven" + ".org",
        "--" + "index-url x",
    ],
)
def test_what_may_not_be_named_would_be_found(text: str) -> None:
    assert A_MACHINES_PATH.search(text) or A_REGISTRYS_HOST.search(text)


@pytest.mark.parametrize("text", ["uv --no-emit-index-url", "/srv/b3/data", "docs/work/x", "Maven Central", "~/home"])
def test_what_may_be_named_is_not_mistaken_for_it(text: str) -> None:
    assert not A_MACHINES_PATH.search(text)
    assert not A_REGISTRYS_HOST.search(text)
