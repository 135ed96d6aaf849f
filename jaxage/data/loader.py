"""How what is learned from reaches the steps: all of it on the device, or batch by batch from memory or disk."""

import os
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from jaxage.data.sampler import EpochBatches
from jaxage.types import Ages, Items
from jaxage.utils.sharding import replicate

_READERS, _AHEAD = 2, 4
_SHARE = 0.5
_GIB = 2**30

Arguments = tuple[Items, Ages | np.ndarray, np.ndarray]
"""What a step takes to find a batch: items, their ages, and the rows of both that make up the batch."""


@dataclass(frozen=True, eq=False)
class DataLoader:
    """Images, uint8 (n, size, size, 3), or features of them, (n, ...), with their ages, float32 (n,).

    On the device if `items` is a JAX array, streamed if it is a NumPy array such as a memory map.
    """

    items: jax.Array | np.ndarray
    ages: jax.Array | np.ndarray
    mesh: Mesh

    @property
    def resident(self) -> bool:
        """Whether all of it is on the device."""
        return isinstance(self.items, jax.Array)


def make_loader(items: np.ndarray, ages: np.ndarray, mesh: Mesh, budget: float) -> DataLoader:
    """A resident loader if the items fit into `budget` GiB of each device (see `device_budget`), else a streamed one."""
    if items.nbytes > budget:
        return DataLoader(items, ages, mesh)
    return DataLoader(replicate(items, mesh), replicate(ages, mesh), mesh)


def device_budget(mesh: Mesh, budget: float | None) -> float:
    """Bytes of each device that a loader may take: `budget` GiB, or half of what a device has.

    Devices of one host's CPU share its memory.
    """
    if budget is not None:
        return budget * _GIB
    device = mesh.devices.flat[0]
    if device.platform != "cpu":
        return _SHARE * device.memory_stats()["bytes_limit"]
    return _SHARE * memory() / mesh.size


def memory() -> int:
    """Bytes of memory of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def batches(loader: DataLoader, rows: Iterable[np.ndarray]) -> Generator[Arguments]:
    """For every batch of rows, in their order, the arguments of a step.

    Those of a streamed loader are read and sent ahead by threads, which end with the iterator.
    """
    if loader.resident:
        for batch in rows:
            yield loader.items, loader.ages, batch
        return

    def fetch(batch: np.ndarray) -> Arguments:
        return *replicate((loader.items[batch], loader.ages[batch]), loader.mesh), np.arange(len(batch), dtype=np.int32)

    ahead: deque[Future[Arguments]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        for batch in rows:
            ahead.append(pool.submit(fetch, batch))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def step_batches(
    loader: DataLoader, order: EpochBatches, first: int, end: int, count: int
) -> Generator[tuple[Items, Ages | np.ndarray, EpochBatches]]:
    """The arguments of every `count` steps of an epoch, from the step `first` up to `end`.

    They are the whole order, if all is resident, else (`count` must be 1) one batch and its part of the order.
    """
    if loader.resident:
        for _ in range(first, end, count):
            yield loader.items, loader.ages, order
        return
    rows, view_ids, weights = (np.asarray(part)[first:end] for part in order)
    for i, (items, ages, places) in enumerate(batches(loader, rows)):
        yield items, ages, EpochBatches(places[None], view_ids[i][None], weights[i][None])


def rate(loader: DataLoader, batch_size: int, count: int = 50) -> float:
    """Items a second that the loader gives when nothing is done with them, over some batches in random order."""
    rows = np.random.default_rng(0).integers(len(loader.items), size=(count, batch_size), dtype=np.int32)
    started = time.perf_counter()
    for items, _, _ in batches(loader, rows):
        jax.block_until_ready(items)
    return rows.size / (time.perf_counter() - started)
