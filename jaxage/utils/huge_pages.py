"""Huge pages for a CPU's memory, decided before anything large is imported."""

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path


def restart_with_huge_pages() -> None:
    """Re-exec with glibc huge pages enabled, unless configured.

    On the CPU, XLA allocates its temporary arrays anew in every step, and spends up to a quarter of the step on pages
    of 4 KiB. glibc reads `GLIBC_TUNABLES` when a process starts, hence the restart. Nothing is done if that is set, if
    there is an NVIDIA GPU, or if the system has no huge pages.
    """
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if "GLIBC_TUNABLES" in os.environ or Path("/dev/nvidiactl").exists() or platform.libc_ver()[0] != "glibc":
        return
    if pages.exists() and "[never]" not in pages.read_text(encoding="ascii"):
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        with suppress(OSError):  # it is slower without, no more
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
