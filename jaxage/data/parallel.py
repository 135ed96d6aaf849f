"""Run many small jobs on a pool of threads, with results in order and a progress bar."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_CHUNK, _CHUNKS_AHEAD = 8, 64


def in_order(pool: ThreadPoolExecutor, function: Callable[[Any], T], items: Sequence[Any], what: str) -> Iterator[T]:
    """Call `function` for each item; the results come in the order of the items.

    Only a bounded number of results waits to be taken, so memory does not grow with the items.

    Args:
        pool: The threads.
        function: What is called.
        items: Its arguments.
        what: The label of the progress bar.
    """
    waiting: deque[Future[list[T]]] = deque()
    with tqdm(total=len(items), desc=what, unit=" images", disable=None) as bar:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            waiting.append(pool.submit(lambda chunk: [function(item) for item in chunk], chunk))
            while len(waiting) > (_CHUNKS_AHEAD if start + _CHUNK < len(items) else 0):
                results = waiting.popleft().result()
                yield from results
                bar.update(len(results))
