"""`jaxage launch`: several processes on this machine that do one job, as `jax.distributed` expects them."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from jaxage.types import UserError
from jaxage.utils.processes import Launch, local_devices, visible_gpus
from jaxage.utils.runtime import available_cores

_CLI = "jaxage.cli"
_PATIENCE_S, _POLL_S = 60.0, 0.1


def launch(command: Sequence[str], processes: int) -> int:
    """Start a command of jaxage in several processes, and wait for all of them.

    GPUs and cores are divided equally. SIGTERM and SIGINT are passed on. If a process fails, those that do not end by
    themselves within a minute are killed.

    Args:
        command: The command and its arguments, such as ["train", "--data", "faces.csv"].
        processes: How many.

    Returns:
        The exit status: 0, or that of the first process that failed (128 + n after signal n).

    Raises:
        UserError: for no command, fewer than one process, or GPUs that do not divide among them.
    """
    if not command or processes < 1:
        raise UserError("launch needs a command after --, such as jaxage launch --processes 2 -- train, and a process")
    port = _free_port()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", _CLI, *command],
            env=os.environ | _variables(processes, index, port),
            start_new_session=True,  # Ctrl-C comes once, from here
        )
        for index in range(processes)
    ]

    def pass_on(signum: int, _: Any) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signum)

    previous = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _variables(count: int, index: int, port: int) -> dict[str, str]:
    found = {
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    }
    if gpus := visible_gpus():
        mine = local_devices(Launch(count, index, None, index, count), gpus)
        found["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, mine))
    elif "JAX_NUM_CPU_DEVICES" not in os.environ:
        found["JAX_NUM_CPU_DEVICES"] = str(max(1, available_cores() // count))
    if index:
        found["TQDM_DISABLE"] = "1"
    return found


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    """The status of the first child that fails; the others have a minute to end then."""
    status, deadline = 0, math.inf
    while not status or time.monotonic() < deadline:
        running = [child for child in children if child.poll() is None]
        failed = [child.returncode for child in children if child.returncode]
        if failed and not status:
            status, deadline = failed[0] if failed[0] > 0 else 128 - failed[0], time.monotonic() + _PATIENCE_S
        if not running:
            break
        time.sleep(_POLL_S)
    return status


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
