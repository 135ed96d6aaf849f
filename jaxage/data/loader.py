"""Data loading: the whole set on the device when it fits, streamed batch by batch otherwise."""

import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxage.data.sampler import EpochBatches
from jaxage.types import Items
from jaxage.utils.memory import host_memory
from jaxage.utils.runtime import available_cores
from jaxage.utils.sharding import devices_per_host, replicate, split_batch, split_items, take

_MOST_READERS, _AHEAD = 8, 4
_SHARE = 0.5
_GIB = 2**30

ItemAges = Float[Array | np.ndarray, " faces"]
"""Years, float32, one for each item."""

BatchRows = Int[np.ndarray, " batch"]
"""The rows of a loader that make up a batch."""

Batch = tuple[Items, ItemAges, BatchRows]
"""What a step takes to find a batch: items, their ages, and the rows of both that make up the batch."""


@dataclass(frozen=True, eq=False)
class DataLoader:
    """Images or cached features of them, with their ages.

    items: images, uint8 (n, size, size, 3), or features, (n, ...); a JAX array if they lie on the devices, which has
        zeros after the last item (see `split_items`), a NumPy array (a memory map, for example) if they are streamed.
    ages: (n,) float32, years.
    mesh: The devices; each holds its part of the items, or gets its part of each batch.
    """

    items: Items
    ages: ItemAges
    mesh: Mesh

    @property
    def resident(self) -> bool:
        """Whether all items lie on the devices."""
        return isinstance(self.items, jax.Array)

    @property
    def device_bytes(self) -> int:
        """Bytes that the items take of each device: 0 if they are streamed."""
        return self.items.nbytes // devices_per_host(self.mesh) if self.resident else 0


def make_loader(items: Items, ages: Float[np.ndarray, " faces"], mesh: Mesh, budget_bytes: int | float) -> DataLoader:
    """A resident loader if the items fit into the budget or are on the devices already, a streaming loader otherwise.

    Args:
        items: Images, uint8 (n, size, size, 3), or features, (n, ...).
        ages: (n,) float32, years.
        mesh: The devices.
        budget_bytes: Bytes of each device that are left for the items (see `device_budget`).
    """
    if isinstance(items, jax.Array):
        return DataLoader(items, replicate(ages, mesh), mesh)
    if items.nbytes > budget_bytes * devices_per_host(mesh):
        return DataLoader(items, ages, mesh)
    return DataLoader(split_items(items, mesh), replicate(ages, mesh), mesh)


def device_budget(mesh: Mesh, budget_gib: float | None) -> int:
    """Bytes of each device that images and cached features may take together.

    Without a budget this is half of the device's memory. Where the device does not say how much it has, it is half of
    the host's memory, divided among its devices: CPU devices report no memory size.

    Args:
        mesh: The devices.
        budget_gib: GiB of each device, or None.
    """
    if budget_gib is not None:
        return int(budget_gib * _GIB)
    stats = mesh.local_devices[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(_SHARE * limit)
    return int(_SHARE * host_memory() / devices_per_host(mesh))


def items_at(items: Items, rows: Int[Array, " batch"], mesh: Mesh, *, resident: bool) -> Array:
    """The items of a batch, inside a program; a streaming loader has given nothing else."""
    return take(items, rows, mesh) if resident else jnp.asarray(items)


def load_batches(loader: DataLoader, rows: Iterable[BatchRows]) -> Generator[Batch]:
    """For every batch of rows, in their order, what a step takes.

    Batches of a streaming loader are read and sent ahead by threads, which end with the iterator.

    Args:
        loader: Where the items are.
        rows: The rows of each batch.

    Raises:
        IndexError: for a row that the loader does not have.
    """
    if loader.resident:
        for batch in rows:
            yield loader.items, loader.ages, batch
        return

    def fetch(batch: BatchRows) -> Batch:
        items, ages = (split_batch(each, batch, loader.mesh) for each in (loader.items, loader.ages))
        return items, ages, np.arange(len(batch), dtype=np.int32)

    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(min(_MOST_READERS, available_cores())) as pool:
        for batch in rows:
            ahead.append(pool.submit(fetch, batch))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def step_batches(
    loader: DataLoader, epoch: EpochBatches, first: int, end: int, count: int
) -> Generator[tuple[Items, ItemAges, EpochBatches]]:
    """What a train step takes, for every `count` steps of an epoch.

    A resident loader gives all of the epoch each time; a streaming loader gives one batch and its part of the epoch.

    Args:
        loader: Where the items are.
        epoch: The batches of the epoch.
        first: The first step.
        end: The step to stop before.
        count: Steps at a time; 1 for a streaming loader.
    """
    if loader.resident:
        for _ in range(first, end, count):
            yield loader.items, loader.ages, epoch
        return
    rows, view_ids, weights = (np.asarray(part)[first:end] for part in epoch)
    for i, (items, ages, places) in enumerate(load_batches(loader, rows)):
        yield items, ages, EpochBatches(places[None], view_ids[i][None], weights[i][None])


def measure_rate(loader: DataLoader, batch_size: int, count: int = 50) -> float:
    """Items a second that the loader gives if nothing is done with them.

    Args:
        loader: What is measured.
        batch_size: Items in a batch.
        count: How many batches of random rows are loaded.
    """
    rows = np.random.default_rng(0).integers(len(loader.items), size=(count, batch_size), dtype=np.int32)
    started = time.perf_counter()
    for items, _, _ in load_batches(loader, rows):
        jax.block_until_ready(items)
    return rows.size / (time.perf_counter() - started)
