"""Parts worked out side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.ahead import ahead


@given(st.lists(st.integers(), max_size=20), st.integers(1, 3))
def test_the_results_are_those_of_map_in_order(items: list[int], threads: int) -> None:
    assert list(ahead(str, items, threads)) == [str(item) for item in items]


def test_two_items_are_worked_on_at_once() -> None:
    both = threading.Barrier(2, timeout=60)
    assert list(ahead(lambda item: item and both.wait() >= 0, [0, 1, 2], threads=2)) == [0, True, True]


def test_only_a_few_items_are_taken_before_they_are_asked_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = ahead(str, items(), threads=2)
    assert [next(results), next(results)] == ["0", "1"]
    assert len(taken) <= 5


def test_an_error_comes_in_its_items_turn() -> None:
    results = ahead(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
