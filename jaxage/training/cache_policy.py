"""What the learning part of a network is fed with: images, or features of the frozen prefix if that is faster."""

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxage.config import TrainConfig
from jaxage.data.loader import device_budget
from jaxage.training.feature_cache import (
    BATCH_PER_DEVICE,
    Prefix,
    TrainInputs,
    feature_key,
    from_store,
    keep,
    kept,
    run_prefix,
)
from jaxage.training.inputs import from_images
from jaxage.training.placement import Costs, Placement, decide
from jaxage.training.predictor import images_at
from jaxage.types import Log
from jaxage.utils.memory import host_memory

_SHARE_OF_DISK, _SHARE_OF_MEMORY = 0.25, 0.5


def choose_inputs(
    config: TrainConfig, prefix: Prefix, seen: int, data_sha256: str, cache: Path, log: Log
) -> TrainInputs:
    """Images through the frozen prefix at every step, or its features, found in `cache` or computed now.

    `seen` is how many images the run will look at, epochs and tests together. What is chosen, and why, is said.
    """
    source = from_images(
        prefix.model,
        prefix.channels,
        start=prefix.start,
        use_augment=config.augment,
        views=prefix.views,
        seed=prefix.seed,
    )
    view_rows = np.repeat(prefix.train_rows[:, None], prefix.views, axis=1).astype(np.int32)
    images = TrainInputs(prefix.loader, view_rows, images_at(np.arange(len(prefix.loader.items)), prefix.flip), source)
    if config.cache_features == "off" or prefix.start == prefix.model.spec.units[0]:
        return images
    path = cache / "features" / f"{feature_key(prefix, data_sha256)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = kept(prefix, path)
    place, why = _place(config, prefix, seen, path.parent, stored is not None)
    log(f"frozen layers, before {prefix.start}: {_PLACES[place]}, {why}")
    if place == "off":
        return images
    started = time.perf_counter()
    if place == "disk":
        budget: float = _budget(config, prefix)
        features = keep(prefix, path) if stored is None else stored
    else:
        budget = math.inf if place == "device" else 0.0
        features = np.empty(prefix.shape, prefix.dtype)
        run_prefix(prefix, features)
    log(f"  {len(features):,} features ready in {time.perf_counter() - started:.1f} s")
    return replace(from_store(prefix, features, budget), place=place)


_PLACES = {
    "off": "computed at every step",
    "device": "computed once, kept on the device",
    "host": "computed once, kept in memory",
    "disk": "computed once, kept in a file",
}


def _place(config: TrainConfig, prefix: Prefix, seen: int, folder: Path, found: bool) -> Placement:
    if config.cache_features != "auto":
        return Placement(config.cache_features, "as asked")
    if config.augment:
        return Placement("off", "as every step augments its images anew")
    if found:
        return Placement("disk", "found there")
    if config.solver == "ridge":
        return Placement("disk", "as the solver needs all of them")
    return decide(
        Costs(
            nbytes=prefix.nbytes,
            images=prefix.shape[0],
            seen=seen,
            seconds=_seconds(prefix),
            device=float(_budget(config, prefix)),
            disk=_SHARE_OF_DISK * shutil.disk_usage(folder).free,
            host=_SHARE_OF_MEMORY * host_memory(),
        )
    )


def _budget(config: TrainConfig, prefix: Prefix) -> int:
    """Bytes of each device that the images leave for features."""
    return device_budget(prefix.loader.mesh, config.memory_budget) - prefix.loader.device_bytes


def _seconds(prefix: Prefix) -> float:
    """Of the prefix for one image: a few batches, once it is compiled."""
    some = min(prefix.shape[0], 4 * BATCH_PER_DEVICE * prefix.loader.mesh.size)
    out = np.empty((some, *prefix.shape[1:]), prefix.dtype)
    run_prefix(prefix, out[:1])
    started = time.perf_counter()
    run_prefix(prefix, out)
    return (time.perf_counter() - started) / some
