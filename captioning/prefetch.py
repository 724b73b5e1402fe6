"""Computing ahead in threads: `prefetch_map`."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Value], Result], values: Iterable[Value], workers: int, ahead: int | None = None
) -> Generator[Result, None, None]:
    """Like `map(function, values)`, but threads compute the next results while the caller uses the current one.

    Args:
        workers: number of threads.
        ahead: number of results that are held or being computed. Default: `workers`.

    If the caller closes the iterator, or `function` or `values` raises, what has not begun is never computed.
    """
    futures: collections.deque = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for value in values:
                futures.append(pool.submit(function, value))
                if len(futures) > (ahead or workers):
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
