"""What must be set before JAX starts: the devices of the CPU, and where compiled programs are kept."""

import os
from contextlib import suppress

import jax

from jaxage.config import cache_folder


def prepare_jax() -> None:
    """As many CPU devices as cores, and compiled programs kept in jaxage's cache folder; what the user set stays.

    One device leaves a part of the cores idle. `JAX_NUM_CPU_DEVICES`, `JAX_COMPILATION_CACHE_DIR` (or JAX's config of
    these names) and `--xla_force_host_platform_device_count` in `XLA_FLAGS` go before. To be called before JAX looks
    for devices: later it cannot change them.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_num_cpu_devices"] == -1 and not chosen:
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
