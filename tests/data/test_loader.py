import math
import threading
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxage.data.loader import DataLoader, device_budget, load_batches, make_loader, measure_rate, step_batches
from jaxage.data.sampler import EpochBatches
from jaxage.utils.sharding import make_mesh

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
AGES = np.arange(50, dtype=np.float32)
ROWS = np.random.default_rng(1).integers(0, 50, (30, 6), np.int32)


def loaders() -> dict[str, DataLoader]:
    mesh = make_mesh()
    return {"resident": make_loader(IMAGES, AGES, mesh, math.inf), "streamed": make_loader(IMAGES, AGES, mesh, 0)}


@pytest.mark.parametrize("name", ["resident", "streamed"])
def test_every_batch_in_its_order(name: str) -> None:
    given = list(load_batches(loaders()[name], ROWS))
    assert len(given) == 30
    for (images, ages, rows), expected in zip(given, ROWS, strict=True):
        assert isinstance(images, jax.Array)
        np.testing.assert_array_equal(np.asarray(images)[rows], IMAGES[expected])
        np.testing.assert_array_equal(np.asarray(ages)[rows], AGES[expected])


def test_the_budget_decides() -> None:
    mesh = make_mesh()
    share = IMAGES.nbytes // 2
    resident, streamed = (make_loader(IMAGES, AGES, mesh, share - less) for less in (0, 1))
    assert resident.resident
    assert isinstance(resident.items, jax.Array)
    assert [part.data.nbytes for part in resident.items.addressable_shards] == [share, share]
    assert resident.device_bytes == share
    assert streamed.items is IMAGES
    assert not streamed.resident
    assert streamed.device_bytes == 0


class Device:
    """A device that says this of its memory."""

    def __init__(self, stats: dict[str, int] | None) -> None:
        self.memory_stats = lambda: stats


@pytest.mark.parametrize(
    ("stats", "gib", "expected"),
    [
        ({"bytes_limit": 1000}, None, 500),
        ({"bytes_in_use": 3}, None, 1500),
        (None, None, 1500),
        (None, 0.5, 2**29),
        ({"bytes_limit": 1000}, 0.0, 0),
    ],
)
def test_the_budget_of_a_device(
    stats: dict[str, int] | None, gib: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxage.data.loader.host_memory", lambda: 6000)
    mesh = mock.Mock(spec=Mesh, local_devices=[Device(stats)] * 2, shape={"device": 2})
    assert device_budget.__wrapped__(mesh, gib) == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("done", [0, 2])
def test_every_call_finds_its_batches(done: int) -> None:
    epoch = EpochBatches(ROWS[:8], ROWS[:8] * 2, np.ones((8, 6), np.float32))
    resident = list(step_batches(loaders()["resident"], epoch, done, len(epoch.rows), 2))
    assert len(resident) == (8 - done) / 2
    assert all(part is epoch for _, _, part in resident)
    streamed = list(step_batches(loaders()["streamed"], epoch, done, len(epoch.rows), 1))
    assert len(streamed) == 8 - done
    for i, (images, ages, part) in enumerate(streamed, done):
        np.testing.assert_array_equal(np.asarray(images)[part.rows[0]], IMAGES[ROWS[i]])
        np.testing.assert_array_equal(np.asarray(ages)[part.rows[0]], AGES[ROWS[i]])
        np.testing.assert_array_equal(part.view_ids[0], ROWS[i] * 2)


def test_a_map_of_the_disk_is_never_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    large = np.lib.format.open_memmap(path, "w+", np.uint8, (10**6, 112, 112, 3))  # 37 GB, sparse
    large[[3, 999_999]] = 7
    loader = make_loader(large, np.zeros(10**6, np.float32), make_mesh(), 0)
    ((images, _, _),) = load_batches(loader, [np.asarray([999_999, 0, 3, 1], np.int32)])
    assert np.asarray(images)[:, 0, 0, 0].tolist() == [7, 0, 7, 0]


def test_threads_end_when_nobody_wants_more() -> None:
    before = threading.active_count()
    wanted = load_batches(loaders()["streamed"], ROWS)
    next(wanted)
    assert threading.active_count() > before
    wanted.close()
    assert threading.active_count() == before


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError):
        list(load_batches(loaders()["streamed"], [np.asarray([50, 0], np.int32)]))


def test_the_rate_is_measured() -> None:
    assert measure_rate(loaders()["streamed"], 8, count=3) > 0
