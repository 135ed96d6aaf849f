import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxage.data.parallel import in_order


def test_results_keep_the_order_of_the_items() -> None:
    def slow(item: int) -> int:
        time.sleep(0.002 if item % 7 == 0 else 0)
        return item * item

    with ThreadPoolExecutor(4) as pool:
        assert list(in_order(pool, slow, range(100), "squares")) == [i * i for i in range(100)]
        assert list(in_order(pool, slow, [], "nothing")) == []


def test_no_more_than_some_hundreds_wait() -> None:
    done = []
    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, lambda item: done.append(item), range(10_000), "counted")
        next(results)
        time.sleep(0.1)
        assert len(done) < 1000
        results.close()  # type: ignore[attr-defined]


def test_an_error_comes_through() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        list(in_order(pool, lambda item: 1 // item, [3, 2, 1, 0], "divided"))
