"""What must be set before JAX starts: the devices of the CPU, and where compiled programs are kept."""

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

import jax

from jaxage.config import cache_folder

_SMALL = 100
"""Side of an image below which one CPU device is faster than many: each does the optimizer's work anew."""


def prepare_jax(image_size: int | None = None) -> None:
    """As many CPU devices as cores, and compiled programs kept in jaxage's cache folder; what the user set stays.

    One device leaves a part of the cores idle, but is the faster choice for training on small images.
    `JAX_NUM_CPU_DEVICES`, `JAX_COMPILATION_CACHE_DIR` (or JAX's config of these names) and
    `--xla_force_host_platform_device_count` in `XLA_FLAGS` go before. To be called before JAX looks for devices: later
    it cannot change them.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_num_cpu_devices"] == -1 and not chosen:
        with suppress(RuntimeError):
            small = image_size is not None and image_size < _SMALL
            jax.config.update("jax_num_cpu_devices", 1 if small else len(os.sched_getaffinity(0)))
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def restart_with_huge_pages() -> None:
    """Begin this process anew with glibc's memory in huge pages, where that is possible and the user said nothing.

    XLA takes the memory of its temporary arrays afresh in every step on the CPU, and spends up to a quarter of it on
    pages of 4 KiB. `GLIBC_TUNABLES` is read when a process begins, hence the new beginning; if it is set, or there is
    an NVIDIA GPU, nothing is done.
    """
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if "GLIBC_TUNABLES" in os.environ or Path("/dev/nvidiactl").exists() or platform.libc_ver()[0] != "glibc":
        return
    if pages.exists() and "[never]" not in pages.read_text(encoding="ascii"):
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
