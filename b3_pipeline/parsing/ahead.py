"""Parts of a payload worked out side by side, and given on in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Arrow and numpy let go of the interpreter while they work; what is left of Python keeps more threads from gaining.
THREADS = 2


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS) -> Iterator[Result]:
    """`map`, a few items ahead of the reader, in threads. What the function raises comes in its item's turn.

    The first item is worked out alone: what is made once (calendars, tables of offsets) is then there for all, and a
    payload of one part needs no threads.
    """
    rest = iter(items)
    for first in rest:
        yield function(first)
        break
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Result]] = deque()
        for item in rest:
            under_way.append(pool.submit(function, item))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
