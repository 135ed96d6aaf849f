"""Run many small jobs on a pool of threads, with results in order and a progress bar."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_CHUNKS_AHEAD = 64


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Any], T], items: Sequence[Any], what: str, chunk: int = 8
) -> Generator[T]:
    """Call `function` for each item; the results come in the order of the items.

    Only a bounded number of results waits to be taken, so memory does not grow with the items.

    Args:
        pool: The threads.
        function: What is called.
        items: Its arguments.
        what: The label of the progress bar.
        chunk: How many items a thread takes at once; 1 where an item takes long.
    """
    waiting: deque[Future[list[T]]] = deque()
    try:
        with tqdm(total=len(items), desc=what, unit=" images", disable=None) as bar:
            for start in range(0, len(items), chunk):
                part = items[start : start + chunk]
                waiting.append(pool.submit(lambda part: [function(item) for item in part], part))
                while len(waiting) > (_CHUNKS_AHEAD if start + chunk < len(items) else 0):
                    results = waiting.popleft().result()
                    yield from results
                    bar.update(len(results))
    finally:  # after an error or Ctrl-C, what has not begun is not begun
        for future in waiting:
            future.cancel()
