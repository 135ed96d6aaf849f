"""Settings to make before JAX starts: CPU devices, and the cache of compiled programs."""

import os
import sys
import warnings
from contextlib import suppress
from typing import Literal

import jax

from jaxage.config import cache_folder
from jaxage.types import UserError
from jaxage.utils import cluster
from jaxage.utils.processes import find_launch, local_devices, visible_gpus

Processes = Literal["one", "joined", "independent"]

_SMALL = 100
"""Image size below which one CPU device is faster than several: each repeats the optimizer's work."""


def prepare_jax(image_size: int | None = None, processes: Processes = "one") -> None:
    """Join the other processes of the job, if there are any, use a CPU device per core, and cache compiled programs in
    jaxage's cache folder, unless the user configured that.

    Call it before JAX looks for devices: later it cannot change them. `JAX_NUM_CPU_DEVICES`,
    `JAX_COMPILATION_CACHE_DIR` (or JAX's config of these names) and `--xla_force_host_platform_device_count` in
    `XLA_FLAGS` have priority.

    Args:
        image_size: Height and width of the images in pixels. One device leaves a part of the cores idle, but is faster
            for training on small images.
        processes: What the processes of a Slurm step or of `jaxage launch` do: they are refused ("one"), train
            one model ("joined"), or share out the work among themselves ("independent").

    Raises:
        UserError: if there are several processes where there must be one, or their environment is wrong.
    """
    launch = find_launch()
    if launch and processes == "one":
        if launch.rank:
            sys.exit(1)  # the first says it
        raise UserError(f"this command runs in one process, and it was started in {launch.processes}: start it once")
    sharers = launch.local_processes if launch else 1
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_num_cpu_devices"] == -1 and not chosen:
        with suppress(RuntimeError):
            small = image_size is not None and image_size < _SMALL
            jax.config.update("jax_num_cpu_devices", 1 if small else max(1, available_cores() // sharers))
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # a full disk, say
    if jax.config.values["jax_compilation_cache_dir"] is None:
        with suppress(UserError):  # no home folder
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    if launch and processes == "joined":
        cluster.join(launch)
    elif launch and (gpus := visible_gpus()):
        mine = local_devices(launch, gpus)
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, mine)))


def available_cores() -> int:
    """How many cores this process may use; all of the machine's on systems that cannot tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
