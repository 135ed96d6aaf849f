import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxage.data.loader import DataLoader, batches, make_loader, rate, step_batches
from jaxage.data.sampler import EpochBatches
from jaxage.utils.sharding import make_mesh

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
AGES = np.arange(50, dtype=np.float32)
ROWS = np.random.default_rng(1).integers(0, 50, (30, 6), np.int32)


def feeds() -> dict[str, DataLoader]:
    mesh = make_mesh()
    return {"resident": make_loader(IMAGES, AGES, mesh, None), "streamed": make_loader(IMAGES, AGES, mesh, 0.0)}


@pytest.mark.parametrize("name", ["resident", "streamed"])
def test_every_batch_in_its_order(name: str) -> None:
    given = list(batches(feeds()[name], ROWS))
    assert len(given) == 30
    for (images, ages, rows), expected in zip(given, ROWS, strict=True):
        assert isinstance(images, jax.Array)
        np.testing.assert_array_equal(np.asarray(images)[rows], IMAGES[expected])
        np.testing.assert_array_equal(np.asarray(ages)[rows], AGES[expected])


def test_the_budget_decides() -> None:
    mesh, gib = make_mesh(), IMAGES.nbytes / 2**30
    assert make_loader(IMAGES, AGES, mesh, gib).resident
    streamed = make_loader(IMAGES, AGES, mesh, 0.999 * gib)
    assert streamed.items is IMAGES
    assert not streamed.resident


@pytest.mark.parametrize("done", [0, 2])
def test_every_dispatch_finds_its_batches(done: int) -> None:
    order = EpochBatches(ROWS[:8], ROWS[:8] * 2, np.ones((8, 6), np.float32))
    resident = list(step_batches(feeds()["resident"], order, done, len(order.rows), 2))
    assert len(resident) == (8 - done) / 2
    assert all(part is order for _, _, part in resident)
    streamed = list(step_batches(feeds()["streamed"], order, done, len(order.rows), 1))
    assert len(streamed) == 8 - done
    for i, (images, ages, part) in enumerate(streamed, done):
        np.testing.assert_array_equal(np.asarray(images)[part.rows[0]], IMAGES[ROWS[i]])
        np.testing.assert_array_equal(np.asarray(ages)[part.rows[0]], AGES[ROWS[i]])
        np.testing.assert_array_equal(part.view_ids[0], ROWS[i] * 2)


def test_a_map_of_the_disk_is_never_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    large = np.lib.format.open_memmap(path, "w+", np.uint8, (10**6, 112, 112, 3))  # 37 GB, sparse
    large[[3, 999_999]] = 7
    loader = make_loader(large, np.zeros(10**6, np.float32), make_mesh(), 0.0)
    ((images, _, _),) = batches(loader, [np.asarray([999_999, 0, 3, 1], np.int32)])
    assert np.asarray(images)[:, 0, 0, 0].tolist() == [7, 0, 7, 0]


def test_threads_end_when_nobody_wants_more() -> None:
    before = threading.active_count()
    wanted = batches(feeds()["streamed"], ROWS)
    next(wanted)
    assert threading.active_count() > before
    wanted.close()
    assert threading.active_count() == before


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError):
        list(batches(feeds()["streamed"], [np.asarray([50], np.int32)]))


def test_rate() -> None:
    assert rate(feeds()["streamed"], 8, count=3) > 0
