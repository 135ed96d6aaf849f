"""The frozen layers run once: features of every image and view, in memory or in a file that later runs find."""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.stages import Wrapped
from jaxtyping import Array, Int, Shaped
from tqdm import tqdm

from jaxage.data.image_cache import remove_stale
from jaxage.data.loader import DataLoader, items_at, load_batches
from jaxage.models.registry import Model
from jaxage.training.inputs import from_images
from jaxage.training.view_index import ViewIndex
from jaxage.types import InputContract, Variables
from jaxage.utils import cluster
from jaxage.utils.files import atomic_write, reserve_space
from jaxage.utils.sharding import (
    along_batch,
    along_items,
    block_if_multi_cpu,
    devices_per_host,
    hosts_of,
    inference_batch,
    replicated,
    to_host,
)
from jaxage.utils.trees import flatten, is_within

_VERSION = 2
_BATCH_PER_DEVICE, _AHEAD = 32, 2

Places = Int[np.ndarray, "batches batch"]
"""Rows of a `ViewIndex`, in batches."""

CachedFeatures = Shaped[np.ndarray, "rows *item"]
"""What the first trainable block takes, a row for each of a `ViewIndex`."""


@dataclass(frozen=True, eq=False)
class FrozenTrunk:
    """A network below the block `start`, as a constant function of the images in `loader`.

    contract: what the weights expect of an image. data_sha256: the dataset that the images are from. kinds: the number
    of view ids per image (see `ViewIndex`). seed: draws the random crops among the views.
    """

    model: Model
    variables: Variables
    contract: InputContract
    start: str
    loader: DataLoader
    data_sha256: str
    kinds: int
    seed: int

    @cached_property
    def feature(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image's features: the dtype of the trunk, float32 after the pooling."""
        images = jax.ShapeDtypeStruct((1, *self.loader.items.shape[1:]), jnp.float32)
        batch = jax.eval_shape(lambda v, x: self.model.features(v, x, self.start), self.variables, images)
        return jax.ShapeDtypeStruct(batch.shape[1:], batch.dtype)

    def nbytes(self, rows: int) -> int:
        """Bytes of this many rows of features."""
        return rows * int(np.prod(self.feature.shape)) * self.feature.dtype.itemsize

    @cached_property
    def extract(self) -> Wrapped:
        """`extract(variables, images, rows, view_ids) -> features`, jit-compiled."""
        views = from_images(self.model, self.contract[:2], start=self.start, views=self.kinds, seed=self.seed)
        mesh, resident = self.loader.mesh, self.loader.resident
        whole, split = replicated(mesh), along_batch(mesh)

        def extract(variables: Variables, images: Array, rows: Int[Array, " b"], view_ids: Int[Array, " b"]) -> Array:
            view_ids = lax.with_sharding_constraint(view_ids, split)
            faces = items_at(images, rows, mesh, resident=resident)
            return views.train(jax.random.key(0), variables, faces, view_ids)

        return jax.jit(extract, in_shardings=(whole, None, whole, whole), out_shardings=split)

    @cached_property
    def batch_size(self) -> int:
        """Images per call."""
        return inference_batch(self.loader.mesh, _BATCH_PER_DEVICE * self.loader.mesh.size)


def allocate(trunk: FrozenTrunk, rows: int) -> CachedFeatures:
    """An empty array in memory for this many rows of features."""
    return np.empty((rows, *trunk.feature.shape), trunk.feature.dtype)


def run_trunk(trunk: FrozenTrunk, index: ViewIndex, out: CachedFeatures | None) -> None:
    """Compute features into `out`, in the order of the index. All processes must call it; `out` is None in those that
    only help to compute.
    """
    waiting: deque[Array] = deque()
    written = 0

    def write(batch: Array) -> None:
        nonlocal written
        features = to_host(batch)
        if out is None:
            return
        part = out[written : written + len(batch)]
        part[:] = features[: len(part)]
        written += len(part)

    for batch in _batches(trunk, index, _in_order(trunk, len(index))):
        waiting.append(batch)
        if len(waiting) > _AHEAD:
            write(waiting.popleft())
    for batch in waiting:
        write(batch)


def run_trunk_on_devices(trunk: FrozenTrunk, index: ViewIndex) -> Array:
    """All features in the order of the index, along the devices of each host (see `split_items`), where they are
    computed: none passes through the host's memory.
    """
    mesh = trunk.loader.mesh
    hosts, devices, split = hosts_of(mesh), devices_per_host(mesh), along_items(mesh)
    each = trunk.batch_size // devices  # rows that a call adds to each device
    calls = -(-len(index) // trunk.batch_size)
    shape = devices, calls * each, *trunk.feature.shape

    def put(out: Array, batch: Array, call: Int[Array, ""]) -> Array:
        parts = jnp.moveaxis(batch.reshape(hosts, devices, each // hosts, *trunk.feature.shape), 0, 1)
        return lax.dynamic_update_slice_in_dim(out, parts.reshape(devices, each, *trunk.feature.shape), call * each, 1)

    order = np.arange(shape[0] * shape[1]).reshape(devices, calls, hosts, each // hosts).transpose(1, 2, 0, 3)
    out = jax.jit(lambda: jnp.zeros(shape, trunk.feature.dtype), out_shardings=split)()
    add = jax.jit(put, in_shardings=(split, None, None), out_shardings=split, donate_argnums=0)
    for call, batch in enumerate(_batches(trunk, index, order.reshape(calls, -1) % len(index))):
        out = block_if_multi_cpu(add(out, batch, np.int32(call)))
    flat: Array = jax.jit(lambda x: x.reshape(-1, *trunk.feature.shape), out_shardings=split, donate_argnums=0)(out)
    return flat


def seconds_per_image(trunk: FrozenTrunk, index: ViewIndex) -> float:
    """Measure the time of the frozen layers, on a few batches after compilation."""
    some = min(len(index), 4 * trunk.batch_size)
    jax.block_until_ready(list(_batches(trunk, index, _in_order(trunk, 1))))
    started = time.perf_counter()
    jax.block_until_ready(list(_batches(trunk, index, _in_order(trunk, some))))
    return (time.perf_counter() - started) / some


def _in_order(trunk: FrozenTrunk, count: int) -> Places:
    """The first rows of an index, in batches; the last batch is filled up."""
    return np.resize(np.arange(count), (-(-count // trunk.batch_size), trunk.batch_size))


def _batches(trunk: FrozenTrunk, index: ViewIndex, places: Places) -> Iterator[Array]:
    """The features of batches of rows of the index."""
    rows, view_ids = (each[places].astype(np.int32) for each in index.wanted())
    arguments = zip(load_batches(trunk.loader, rows), view_ids, strict=True)
    for (images, _, places), ids in tqdm(arguments, "frozen layers", len(rows), leave=False, disable=None):
        yield trunk.extract(trunk.variables, images, places, ids)


def feature_key(trunk: FrozenTrunk, index: ViewIndex) -> str:
    """SHA-256 of all that the features depend on: images, views, network, frozen weights, dtype and device kind."""
    units = trunk.model.spec.units
    above = units[units.index(trunk.start) :]
    leaves = flatten(trunk.variables)
    below = {
        name: leaf for name, leaf in leaves.items() if not any(is_within(name.partition(".")[2], u) for u in above)
    }
    platform = trunk.loader.mesh.devices.flat[0].platform
    about = [_VERSION, jax.__version__, platform, trunk.model.spec.arch, trunk.feature.dtype.name, trunk.start]
    views = [index.views, index.flip, trunk.seed if index.views > 2 else None, index.train_rows.tolist()]
    images = [trunk.data_sha256, (len(trunk.loader.ages), *trunk.loader.items.shape[1:]), trunk.contract[:2], views]
    decoded = trunk.contract[2:]
    images += [decoded] * (decoded != InputContract()[2:])  # files of before the contract are still found
    digest = hashlib.sha256(json.dumps([*about, *images]).encode())
    for name, leaf in below.items():
        digest.update(name.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def open_cached(trunk: FrozenTrunk, index: ViewIndex, path: Path) -> CachedFeatures | None:
    """The features in the file, memory-mapped, or None if there is none or it is damaged."""
    try:
        stored = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    dtype = trunk.feature.dtype
    whole = stored.shape == (len(index), *trunk.feature.shape) and stored.dtype == _storable(dtype)
    with suppress(OSError):
        os.utime(path)  # `jaxage cache` shows when it was last used
    return stored.view(dtype) if whole else None


def compute_cached(trunk: FrozenTrunk, index: ViewIndex, path: Path) -> CachedFeatures:
    """Compute the features into the file, which appears whole or not at all; memory-mapped.

    Raises:
        UserError: if another process does not see the file of the first.
        OSError: if the disk is full, or the file cannot be read back.
    """
    if cluster.is_first():
        _compute_file(trunk, index, path)
    else:
        run_trunk(trunk, index, None)
    cluster.require_shared(path.parent)
    found = open_cached(trunk, index, path)
    if found is None:
        raise OSError(f"{path}: verification failed: the file differs from what was written")
    return found


def _compute_file(trunk: FrozenTrunk, index: ViewIndex, path: Path) -> None:
    remove_stale(path.parent)
    dtype = _storable(trunk.feature.dtype)
    shape = (len(index), *trunk.feature.shape)
    with atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        offset = file.tell()
        reserve_space(file, offset + trunk.nbytes(len(index)))
        out = np.memmap(file.name, dtype, "r+", offset, shape)
        run_trunk(trunk, index, out.view(trunk.feature.dtype))
        out.flush()


def _storable(dtype: np.dtype) -> np.dtype:
    """NumPy's files do not know bfloat16."""
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")
