"""How images reach the steps: all of them resident on the device, or batch by batch from the disk."""

import os
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from jaxage.mesh import replicate
from jaxage.types import Ages, RawImages

_READERS, _AHEAD = 2, 4
_SHARE = 0.5
_GIB = 2**30

Arguments = tuple[RawImages, Ages, np.ndarray]
"""What a step takes to find a batch: images, their ages, and the rows of both that make up the batch."""


@dataclass(frozen=True, eq=False)
class Feed:
    """A set of images, uint8 (n, size, size, 3), with their ages, float32 (n,).

    On the device if `images` is a JAX array, streamed if it is a NumPy array such as a memory map.
    """

    images: jax.Array | np.ndarray
    ages: jax.Array | np.ndarray
    mesh: Mesh


def make_feed(images: np.ndarray, ages: np.ndarray, mesh: Mesh, budget: float | None) -> Feed:
    """A resident feed if the images fit into `budget` GiB of each device, else a streamed one.

    Without a budget it is half of what a device has; devices of one host's CPU share its memory.
    """
    if images.nbytes > (_default_budget(mesh) if budget is None else budget * _GIB):
        return Feed(images, ages, mesh)
    return Feed(replicate(images, mesh), replicate(ages, mesh), mesh)


def batches(feed: Feed, rows: Iterable[np.ndarray]) -> Generator[Arguments]:
    """For every batch of rows, in their order, the arguments of a step.

    Those of a streamed feed are read and sent ahead by threads, which end with the iterator.
    """
    if isinstance(feed.images, jax.Array) and isinstance(feed.ages, jax.Array):
        for batch in rows:
            yield feed.images, feed.ages, batch
        return

    def fetch(batch: np.ndarray) -> Arguments:
        return *replicate((feed.images[batch], feed.ages[batch]), feed.mesh), np.arange(len(batch), dtype=np.int32)

    ahead: deque[Future[Arguments]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        for batch in rows:
            ahead.append(pool.submit(fetch, batch))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def rate(feed: Feed, batch_size: int, count: int = 50) -> float:
    """Images a second that the feed gives when nothing is done with them, over some batches in random order."""
    rows = np.random.default_rng(0).integers(len(feed.images), size=(count, batch_size), dtype=np.int32)
    started = time.perf_counter()
    for images, _, _ in batches(feed, rows):
        jax.block_until_ready(images)
    return rows.size / (time.perf_counter() - started)


def _default_budget(mesh: Mesh) -> float:
    device = mesh.devices.flat[0]
    if device.platform != "cpu":
        return _SHARE * device.memory_stats()["bytes_limit"]
    return _SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / mesh.size
