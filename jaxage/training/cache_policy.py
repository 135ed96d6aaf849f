"""Train from images or from cached features of the frozen layers, whichever is faster, and say why."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxage.config import TrainConfig
from jaxage.data.loader import DataLoader, device_budget, make_loader
from jaxage.data.sampler import EvalRows, ViewRows
from jaxage.training.feature_cache import (
    CachedFeatures,
    FrozenTrunk,
    allocate,
    compute_cached,
    feature_key,
    open_cached,
    run_trunk,
    run_trunk_on_devices,
    seconds_per_image,
)
from jaxage.training.inputs import InputFn, from_features, from_images
from jaxage.training.view_index import ViewIndex, rows_of_images
from jaxage.types import CacheFeatures, Log
from jaxage.utils import cluster
from jaxage.utils.memory import host_memory
from jaxage.utils.sharding import devices_per_host

DISK_RATE, HOST_RATE = 1e9, 4e9
"""Bytes a second to and from a disk, and from memory to a device."""

_SHARE_OF_DISK, _SHARE_OF_MEMORY = 0.25, 0.5

_PLACES = {
    "off": "computed at every step",
    "device": "computed once, cached on the device",
    "host": "computed once, cached in memory",
    "disk": "computed once, cached in a file",
}


@dataclass(frozen=True, eq=False)
class TrainInputs:
    """The training inputs and their indices.

    loader: images, or cached features. view_rows: for each training image, the loader rows of its views. eval_rows: for
    each image, the loader row of itself and, in a second column, of its mirror. input_fn: turns items of the loader
    into inputs of the first trainable block. place: where features are cached, "off" for images.
    """

    loader: DataLoader
    view_rows: ViewRows
    eval_rows: EvalRows
    input_fn: InputFn
    place: CacheFeatures = "off"


def choose_inputs(
    config: TrainConfig, trunk: FrozenTrunk, index: ViewIndex, seen: int, folder: Path, log: Log
) -> TrainInputs:
    """Images, which go through the frozen layers at every step, or cached features.

    Args:
        config: Says what is asked for (`cache_features`, `augment`, `solver`, `memory_budget`).
        trunk: The frozen layers.
        index: The views of the images that features are needed of.
        seen: How many images the run looks at, epochs and tests together.
        folder: Where files of features are kept.
        log: The logger.

    Once features are cached, the images of `trunk.loader` are freed.
    """
    if config.cache_features == "off" or trunk.start == trunk.model.spec.units[0]:
        return image_inputs(config, trunk, index)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{feature_key(trunk, index)}.npy"
    stored = open_cached(trunk, index, path)
    if not all(cluster.gather(stored is not None)):
        stored = None
    place, why = cluster.agree(_place(config, trunk, index, seen, folder if stored is None else None))
    log(f"frozen layers, before {trunk.start}: {_PLACES[place]}, {why}")
    if place == "off":
        return image_inputs(config, trunk, index)
    started = time.perf_counter()
    budget = device_budget(trunk.loader.mesh, config.memory_budget)
    share = -(-trunk.nbytes(len(index)) // devices_per_host(trunk.loader.mesh))
    features: CachedFeatures | jax.Array | None = stored
    if features is None and place == "disk":
        features = compute_cached(trunk, index, path)
    elif features is None and place == "device" and trunk.loader.device_bytes + share <= budget:
        features = jax.block_until_ready(run_trunk_on_devices(trunk, index))
    elif features is None:
        features = allocate(trunk, len(index))
        run_trunk(trunk, index, features)
    log(f"  {len(index):,} features ready in {time.perf_counter() - started:.1f} s")
    ages = np.asarray(trunk.loader.ages)[index.wanted().rows]
    free_images(trunk.loader)
    if place == "device" and share > budget:
        log(f"  they do not fit into the {budget / 2**30:.2f} GiB of the memory budget: cached in memory instead")
    loader = make_loader(features, ages, trunk.loader.mesh, 0 if place == "host" else budget)
    return TrainInputs(loader, index.view_rows, index.eval_rows, from_features(trunk.start), place)


def image_inputs(config: TrainConfig, trunk: FrozenTrunk, index: ViewIndex) -> TrainInputs:
    """Train from the images themselves."""
    input_fn = from_images(
        trunk.model,
        trunk.contract[:2],
        start=trunk.start,
        use_augment=config.augment,
        views=index.views,
        seed=trunk.seed,
    )
    view_rows = np.repeat(index.train_rows[:, None], index.views, axis=1).astype(np.int32)
    return TrainInputs(trunk.loader, view_rows, rows_of_images(np.arange(index.images), index.flip), input_fn)


def free_images(loader: DataLoader) -> None:
    """Free the device memory of a loader's items: images and features share one budget, one after the other."""
    if isinstance(loader.items, jax.Array):
        loader.items.delete()


class Costs(NamedTuple):
    """The numbers that the decision depends on.

    nbytes: bytes of all features. images: rows of features, one for each view of each image. seen: forward passes
    through the frozen layers if nothing is cached. seconds: time of the frozen layers per image. device, disk, host:
    bytes that may be used there, on all devices of a host together.
    """

    nbytes: int
    images: int
    seen: int
    seconds: float
    device: float
    disk: float
    host: float


class Placement(NamedTuple):
    """Where features are cached, and why, in words."""

    place: CacheFeatures
    why: str


def decide(costs: Costs) -> Placement:
    """Cache the features if that takes less time than computing them for every step.

    Saved are (seen - images) x seconds. A file on disk, which later runs find again, costs nbytes / `DISK_RATE`, and
    is used if it fits and computing takes longer; features that do not fit on the device are read for every step, at
    `DISK_RATE` or `HOST_RATE`.
    """
    saved = (costs.seen - costs.images) * costs.seconds
    resident = costs.nbytes <= costs.device
    read = 0.0 if resident else costs.nbytes / costs.images * costs.seen
    size = f"{costs.nbytes / 2**30:.2f} GiB"
    if saved <= 0:
        return Placement("off", f"the run needs {costs.seen:,} features, and caching would compute {costs.images:,}")
    places: list[tuple[CacheFeatures, bool, float]] = [
        (
            "disk",
            costs.nbytes <= costs.disk and costs.nbytes / DISK_RATE <= costs.images * costs.seconds,
            (costs.nbytes + read) / DISK_RATE,
        ),
        ("device", resident, 0.0),
        ("host", costs.nbytes <= costs.host, read / HOST_RATE),
    ]
    for place, fits, lost in places:
        if fits and lost < saved:
            return Placement(place, f"{size} that save about {saved - lost:.3g} s of computing")
    return Placement("off", f"{size} do not fit, or take longer to read than to compute ({saved:.3g} s)")


def _place(config: TrainConfig, trunk: FrozenTrunk, index: ViewIndex, seen: int, folder: Path | None) -> Placement:
    """`folder` is where a file would be made, None if there is one."""
    if config.cache_features != "auto":
        return Placement(config.cache_features, "as asked")
    if config.augment:
        return Placement("off", "as every step augments its images anew")
    if folder is None:
        return Placement("disk", "found there")
    if config.solver == "ridge":
        return Placement("disk", "as the solver needs all of them")
    return decide(
        Costs(
            nbytes=trunk.nbytes(len(index)),
            images=len(index),
            seen=seen,
            seconds=seconds_per_image(trunk, index),
            device=device_budget(trunk.loader.mesh, config.memory_budget) * devices_per_host(trunk.loader.mesh),
            disk=_SHARE_OF_DISK * shutil.disk_usage(folder).free,
            host=_SHARE_OF_MEMORY * host_memory() / _processes_per_host() - _images_in_memory(trunk.loader),
        )
    )


def _processes_per_host() -> int:
    """Each process keeps features of its own in the host's memory."""
    names = cluster.host_names()
    return names.count(names[cluster.index()])


def _images_in_memory(loader: DataLoader) -> int:
    """Bytes of the host's memory that resident images take: those of CPU devices."""
    on_cpu = loader.mesh.devices.flat[0].platform == "cpu"
    return loader.device_bytes * devices_per_host(loader.mesh) if on_cpu else 0
