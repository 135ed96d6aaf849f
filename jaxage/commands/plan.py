"""`jaxage train --dry-run`: what a run would need. No image is read, nothing is trained or written."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxage.commands.benchmark.abstract import Case, abstract_programs
from jaxage.config import TrainConfig
from jaxage.data.dataset import read_records
from jaxage.data.load import DEMO_FACES, image_size, load_options
from jaxage.data.loader import device_budget
from jaxage.data.records import SPLITS
from jaxage.models.registry import create_model
from jaxage.training.freeze import ema_mask
from jaxage.training.setup import check_settings, choose_dtype
from jaxage.training.view_index import ViewIndex
from jaxage.types import Json, Log
from jaxage.utils import cluster
from jaxage.utils.sharding import devices_per_host, hosts_of

_COPIES = 5
"""A checkpoint has parameters, AdamW's two moments, the average, and the best average."""

_KEPT = 2


def plan(config: TrainConfig, log: Log = print) -> Json:
    """Say what a run with these settings would do to devices, memory and disk. All processes must call it.

    Args:
        config: The settings.
        log: Takes the plan as lines.

    Returns:
        `hosts`, `devices` (of each host), `processes`, `images`, and in bytes: `images_bytes`, `image_share`,
        `features_bytes` and `feature_share` (None if nothing is frozen), `budget` (a share that fits into it is
        resident), `temporary_bytes` of a step, `decoded_bytes` and `checkpoint_bytes`.

    Raises:
        UserError: as `train` does, for settings and tables that cannot be used.
    """
    setup = check_settings(config)
    mesh, size, dtype = setup.mesh, image_size(config), choose_dtype(config)
    counts = dict.fromkeys(SPLITS, 0)
    if config.data is None:
        counts |= {"train": DEMO_FACES * 6 // 10, "validation": DEMO_FACES // 5, "test": DEMO_FACES // 5}
    else:
        records = read_records(config.data, load_options(config))
        counts |= {split: len(records.rows_of(split)) for split in SPLITS}
    images = sum(counts.values())
    model = create_model(config.arch, dtype=dtype)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    start, features = setup.plan.first_block, 0
    if start != model.spec.units[0]:
        one = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        feature = jax.eval_shape(lambda v, x: model.features(v, x, start), variables, one)
        index = ViewIndex(images, np.arange(counts["train"]), config.views, config.flip)
        features = len(index) * feature.size * feature.dtype.itemsize
    moves = ema_mask(variables, setup.plan)
    moving = sum(leaf.size for leaf, on in zip(*map(jax.tree.leaves, (variables, moves)), strict=True) if on)
    case = Case(config.arch, config.trainable, config.batch_size, dtype)
    step = abstract_programs(case, size, mesh)["step"]
    compiled: Any = step.function.lower(*step.arguments).compile()
    memory = compiled.memory_analysis()
    devices = devices_per_host(mesh)
    found: Json = {
        "hosts": hosts_of(mesh),
        "devices": devices,
        "processes": cluster.count(),
        "images": counts,
        "images_bytes": (total := images * size * size * 3),
        "image_share": -(-total // devices),
        "features_bytes": features or None,
        "feature_share": -(-features // devices) or None,
        "budget": device_budget(mesh, config.memory_budget),
        "temporary_bytes": memory.temp_size_in_bytes,
        "decoded_bytes": total,
        "checkpoint_bytes": _KEPT * _COPIES * 4 * moving,
    }
    for line in _lines(found, config, f"{mesh.devices.flat[0].device_kind}", start):
        log(line)
    return found


def _lines(found: Json, config: TrainConfig, kind: str, start: str) -> list[str]:
    def placed(total: int, share: int) -> str:
        where = "kept on the devices" if share <= found["budget"] else "more than the budget: streamed"
        return f"{_gib(total)}, {_gib(share)} on each device: {where}"

    counts = ", ".join(f"{n:,} {split}" for split, n in found["images"].items())
    lines = [
        f"devices      {found['hosts']} x {found['devices']} x {kind}, {found['processes']} processes, "
        f"{_gib(found['budget'])} of each for images or features",
        f"images       {counts}; {placed(found['images_bytes'], found['image_share'])}",
    ]
    if found["features_bytes"]:
        share = placed(found["features_bytes"], found["feature_share"])
        lines.append(f"features     before {start}, if they are cached: {share}")
    each = config.batch_size // (found["hosts"] * found["devices"])
    return [
        *lines,
        f"step         {config.batch_size} images, {each} on each device; {_gib(found['temporary_bytes'])} of "
        "temporaries on each",
        f"disk         {_gib(found['decoded_bytes'])} of decoded images in the cache, "
        f"{_gib(found['checkpoint_bytes'])} of checkpoints in the run's folder",
        "nothing was trained (--dry-run)",
    ]


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"
