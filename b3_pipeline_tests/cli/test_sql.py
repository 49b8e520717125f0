"""Questions in SQL on the command line: how many rows they give, and that it is said when there are more."""

from __future__ import annotations

import json
from pathlib import Path

from b3_pipeline_tests.cli.commands import answer, b3

MANY = "select x from long_sequence(20000)"


def test_no_more_rows_than_the_limit_are_given_and_it_is_said_that_there_are_more(home: Path) -> None:
    result = b3("sql", MANY, "--json")
    rows = json.loads(result.stdout)
    assert (len(rows), rows[-1]) == (10_000, {"x": 10_000})
    assert "more than these 10,000 rows" in " ".join(result.stderr.split())
    assert [row["x"] for row in answer("sql", MANY, "--limit", 2)] == [1, 2]
    shown = b3("sql", MANY, "--limit", 3)
    assert "3 rows." in shown.stderr
    assert "more than these 3 rows" in " ".join(shown.stderr.split())


def test_exactly_as_many_rows_as_the_limit_are_all_of_them(home: Path) -> None:
    result = b3("sql", "select x from long_sequence(3)", "--limit", 3, "--json")
    assert len(json.loads(result.stdout)) == 3
    assert "more" not in result.stderr


def test_a_limit_of_0_gives_all_rows(home: Path) -> None:
    assert len(answer("sql", MANY, "--limit", 0)) == 20_000


def test_no_rows_are_an_empty_list_and_a_table_with_its_heads(home: Path) -> None:
    assert answer("sql", "select x one, x two from long_sequence(0)") == []
    shown = b3("sql", "select x one, x two from long_sequence(0)")
    assert "one" in shown.stdout
    assert "0 rows." in shown.stderr


def test_a_negative_limit_is_wrong_usage(home: Path) -> None:
    b3("sql", MANY, "--limit", -1, code=2)
