"""The frozen layers run once: features of every image and view, in memory or in a file that later runs find."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator
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
from jaxage.data.loader import DataLoader, load_batches
from jaxage.models.registry import Model
from jaxage.training.inputs import from_images
from jaxage.training.view_index import ViewIndex
from jaxage.types import InputContract, Variables
from jaxage.utils.files import atomic_write, reserve_space
from jaxage.utils.sharding import along_batch, block_if_multi_cpu, inference_batch, replicated
from jaxage.utils.trees import flatten, is_within

_VERSION = 2
_BATCH_PER_DEVICE, _AHEAD = 32, 2

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

        def extract(variables: Variables, images: Array, rows: Int[Array, " b"], view_ids: Int[Array, " b"]) -> Array:
            return views.train(jax.random.key(0), variables, images[rows], view_ids)

        whole, split = replicated(self.loader.mesh), along_batch(self.loader.mesh)
        return jax.jit(extract, in_shardings=(whole, whole, split, split), out_shardings=split)

    @cached_property
    def batch_size(self) -> int:
        """Images per call."""
        return inference_batch(self.loader.mesh, _BATCH_PER_DEVICE * self.loader.mesh.size)


def allocate(trunk: FrozenTrunk, rows: int) -> CachedFeatures:
    """An empty array in memory for this many rows of features."""
    return np.empty((rows, *trunk.feature.shape), trunk.feature.dtype)


def run_trunk(trunk: FrozenTrunk, index: ViewIndex, out: CachedFeatures) -> None:
    """Compute features into `out`, in the order of the index; as many rows as `out` has."""
    waiting: deque[Array] = deque()
    written = 0

    def write(batch: Array) -> None:
        nonlocal written
        part = out[written : written + len(batch)]
        part[:] = np.asarray(batch)[: len(part)]
        written += len(part)

    for batch in _batches(trunk, index, len(out)):
        waiting.append(batch)
        if len(waiting) > _AHEAD:
            write(waiting.popleft())
    for batch in waiting:
        write(batch)


def run_trunk_on_devices(trunk: FrozenTrunk, index: ViewIndex) -> Array:
    """All features in the order of the index, whole on each device: they never pass through the host."""
    whole, n = replicated(trunk.loader.mesh), len(index)
    put = jax.jit(
        lambda out, batch, start: lax.dynamic_update_slice_in_dim(out, batch, start, 0),
        out_shardings=whole,
        donate_argnums=0,
    )
    out = jax.jit(lambda: jnp.zeros((n, *trunk.feature.shape), trunk.feature.dtype), out_shardings=whole)()
    for start, batch in zip(range(0, n, trunk.batch_size), _batches(trunk, index, n), strict=True):
        out = block_if_multi_cpu(put(out, batch[: n - start], np.int32(start)))
    return out


def seconds_per_image(trunk: FrozenTrunk, index: ViewIndex) -> float:
    """Measure the time of the frozen layers, on a few batches after compilation."""
    some = min(len(index), 4 * trunk.batch_size)
    jax.block_until_ready(list(_batches(trunk, index, 1)))
    started = time.perf_counter()
    jax.block_until_ready(list(_batches(trunk, index, some)))
    return (time.perf_counter() - started) / some


def _batches(trunk: FrozenTrunk, index: ViewIndex, count: int) -> Iterator[Array]:
    """The features of the first rows of the index; the last batch is filled up."""
    shape = -(-count // trunk.batch_size), trunk.batch_size
    rows, view_ids = (np.resize(each[:count], shape).astype(np.int32) for each in index.wanted())
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
    images = [trunk.data_sha256, trunk.loader.items.shape, trunk.contract[:2], views]
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
    return stored.view(dtype) if whole else None


def compute_cached(trunk: FrozenTrunk, index: ViewIndex, path: Path) -> CachedFeatures:
    """Compute the features into the file, which appears whole or not at all; memory-mapped.

    Raises:
        OSError: if the disk is full, or the file cannot be read back.
    """
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
    found = open_cached(trunk, index, path)
    if found is None:
        raise OSError(f"{path}: verification failed: the file differs from what was written")
    return found


def _storable(dtype: np.dtype) -> np.dtype:
    """NumPy's files do not know bfloat16."""
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")
