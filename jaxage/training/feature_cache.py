"""The frozen prefix, run once: what the learning part takes, kept for every image and view."""

import hashlib
import json
import os
import uuid
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array, Int, Shaped
from tqdm import tqdm

from jaxage.data.image_cache import remove_stale
from jaxage.data.loader import DataLoader, load_batches, make_loader
from jaxage.data.sampler import EvalRows, ViewRows
from jaxage.models.registry import Model
from jaxage.training.inputs import Channels, Source, from_features, from_images
from jaxage.types import CacheFeatures, Variables
from jaxage.utils.sharding import along_batch, replicated
from jaxage.utils.trees import flatten, is_within

_VERSION = 2
BATCH_PER_DEVICE = 32
_AHEAD = 2

Features = Shaped[np.ndarray, "n *item"]


@dataclass(frozen=True, eq=False)
class TrainInputs:
    """What the learning part of a network is fed with.

    `view_rows` say where `loader` has the training images' views, `eval_rows` where it has every image as it is and, in a second
    column, its mirror; `place` says where features are kept, "off" for images.
    """

    loader: DataLoader
    view_rows: ViewRows
    eval_rows: EvalRows
    source: Source
    place: CacheFeatures = "off"


@dataclass(frozen=True, eq=False)
class Prefix:
    """A network below the unit `start`, as a constant function of the images in `loader`.

    `train_rows` of them are wanted as each of `views` views (see `jaxage.data.augment.view`), the others as they are
    and, with `flip`, as their mirrors.
    """

    model: Model
    variables: Variables
    channels: Channels
    start: str
    loader: DataLoader
    train_rows: np.ndarray
    views: int
    flip: bool
    seed: int

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(n, ...) of all features: of every image, of the further views of each training image, of mirrors."""
        count = len(self.loader.items) + len(self.train_rows) * (self.views - 1) + len(self._mirrored)
        return count, *self._item.shape[1:]

    @cached_property
    def dtype(self) -> np.dtype:
        """Of the features: what the trunk computes in, float32 after the pooling."""
        return np.dtype(self._item.dtype)

    @property
    def nbytes(self) -> int:
        """Of all features."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @cached_property
    def view_rows(self) -> ViewRows:
        """Where the views of each training image are."""
        trained, further = len(self.train_rows), self.views - 1
        places = len(self.loader.items) + np.arange(trained * further).reshape(trained, further)
        return np.column_stack([self.train_rows, places]).astype(np.int32)

    @cached_property
    def eval_rows(self) -> EvalRows:
        """Where every image is and, with `flip`, its mirror; training images, never tested, stand for theirs."""
        images = np.arange(len(self.loader.items))
        mirrors = images.copy()
        mirrors[self._mirrored] = self.shape[0] - len(self._mirrored) + np.arange(len(self._mirrored))
        return np.column_stack([images, mirrors][: 1 + self.flip]).astype(np.int32)

    @cached_property
    def _mirrored(self) -> np.ndarray:
        return np.setdiff1d(np.arange(len(self.loader.items)), self.train_rows)[: None if self.flip else 0]

    def wanted(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the loader and view_ids of the views (see `jaxage.data.augment.view`) of all features, in their order."""
        n, trained, views = len(self.loader.items), len(self.train_rows), self.views
        rows = np.concatenate([np.arange(n), np.repeat(self.train_rows, views - 1), self._mirrored])
        further = np.arange(trained * self._kinds).reshape(trained, self._kinds)[:, 1:views]
        view_ids = np.concatenate([np.zeros(n), further.ravel(), np.ones(len(self._mirrored))])
        return rows, view_ids

    @property
    def _kinds(self) -> int:
        """Of views that are told apart: a mirror is the second kind, whether or not training images have it."""
        return max(self.views, 1 + self.flip)

    @cached_property
    def _item(self) -> jax.ShapeDtypeStruct:
        images = jax.ShapeDtypeStruct((1, *self.loader.items.shape[1:]), jnp.float32)
        return jax.eval_shape(lambda v, x: self.model.features(v, x, self.start), self.variables, images)

    @cached_property
    def extract(self) -> Wrapped:
        """`extract(variables, images, rows, view_ids) -> features`, jit-compiled."""
        views = from_images(self.model, self.channels, start=self.start, views=self._kinds, seed=self.seed)

        def extract(variables: Variables, images: Array, rows: Int[Array, " b"], view_ids: Int[Array, " b"]) -> Array:
            return views.train(jax.random.key(0), variables, images[rows], view_ids)

        whole, split = replicated(self.loader.mesh), along_batch(self.loader.mesh)
        return jax.jit(extract, in_shardings=(whole, whole, split, split), out_shardings=split)


def run_prefix(prefix: Prefix, out: Features) -> None:
    """Write the features of every image and view into `out`, in the order of `view_rows`; as many as it has room for."""
    size = BATCH_PER_DEVICE * prefix.loader.mesh.size
    count = -(-len(out) // size)
    rows, view_ids = (np.resize(each[: len(out)], (count, size)).astype(np.int32) for each in prefix.wanted())
    waiting: deque[Array] = deque()
    written = 0

    def write(batch: Array) -> None:
        nonlocal written
        part = out[written : written + len(batch)]
        part[:] = np.asarray(batch)[: len(part)]
        written += len(part)

    arguments = zip(load_batches(prefix.loader, rows), view_ids, strict=True)
    for (images, _, places), code in tqdm(arguments, "frozen layers", len(rows), leave=False, disable=None):
        waiting.append(prefix.extract(prefix.variables, images, places, code))
        if len(waiting) > _AHEAD:
            write(waiting.popleft())
    for batch in waiting:
        write(batch)


def feature_key(prefix: Prefix, data_sha256: str) -> str:
    """SHA-256 of all that the features depend on: images and views, network, weights below the cut, dtype, device."""
    units = prefix.model.spec.units
    above = units[units.index(prefix.start) :]
    leaves = flatten(prefix.variables)
    below = {
        name: leaf for name, leaf in leaves.items() if not any(is_within(name.partition(".")[2], u) for u in above)
    }
    device = prefix.loader.mesh.devices.flat[0]
    about = [_VERSION, jax.__version__, device.platform, prefix.model.spec.arch, prefix.dtype.name, prefix.start]
    views = [prefix.views, prefix.flip, prefix.seed if prefix.views > 2 else None, prefix.train_rows.tolist()]
    digest = hashlib.sha256(
        json.dumps([*about, data_sha256, prefix.loader.items.shape, prefix.channels, views]).encode()
    )
    for name, leaf in below.items():
        digest.update(name.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def kept(prefix: Prefix, path: Path) -> Features | None:
    """The features in the file, memory-mapped, or None if there is none or it is damaged."""
    try:
        stored = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    whole = stored.shape == prefix.shape and stored.dtype == _storable(prefix.dtype)
    return stored.view(prefix.dtype) if whole else None


def keep(prefix: Prefix, path: Path) -> Features:
    """Compute the features into the file, which appears when it is whole, or not at all; memory-mapped."""
    remove_stale(path.parent)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        out = np.lib.format.open_memmap(partial, "w+", _storable(prefix.dtype), prefix.shape)
        with partial.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)  # a full disk is an error, and no signal later
        run_prefix(prefix, out.view(prefix.dtype))
        out.flush()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    found = kept(prefix, path)
    if found is None:
        raise OSError(f"{path}: what was written reads back otherwise")
    return found


def _storable(dtype: np.dtype) -> np.dtype:
    """NumPy's files do not know bfloat16."""
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def from_store(prefix: Prefix, features: Features, budget: int | float) -> TrainInputs:
    """These features as what is learned from, on the device if they fit into `budget` bytes of each device."""
    ages = np.asarray(prefix.loader.ages)
    loader = make_loader(features, ages[prefix.wanted()[0]], prefix.loader.mesh, budget)
    return TrainInputs(loader, prefix.view_rows, prefix.eval_rows, from_features(prefix.start))
