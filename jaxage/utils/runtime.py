"""Settings to make before JAX starts: CPU devices, and the cache of compiled programs."""

import os
import warnings
from contextlib import suppress

import jax

from jaxage.config import cache_folder
from jaxage.types import UserError

_SMALL = 100
"""Image size below which one CPU device is faster than several: each repeats the optimizer's work."""


def prepare_jax(image_size: int | None = None) -> None:
    """Use a CPU device per core, and cache compiled programs in jaxage's cache folder, unless the user configured that.

    Call it before JAX looks for devices: later it cannot change them. `JAX_NUM_CPU_DEVICES`,
    `JAX_COMPILATION_CACHE_DIR` (or JAX's config of these names) and `--xla_force_host_platform_device_count` in
    `XLA_FLAGS` have priority.

    Args:
        image_size: Height and width of the images in pixels. One device leaves a part of the cores idle, but is faster
            for training on small images.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_num_cpu_devices"] == -1 and not chosen:
        with suppress(RuntimeError):
            small = image_size is not None and image_size < _SMALL
            jax.config.update("jax_num_cpu_devices", 1 if small else available_cores())
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # a full disk, say
    if jax.config.values["jax_compilation_cache_dir"] is None:
        with suppress(UserError):  # no home folder
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def available_cores() -> int:
    """How many cores this process may use; all of the machine's on systems that cannot tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
