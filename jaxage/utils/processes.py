"""What the environment says of the processes that were started together, and which GPUs each of them takes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxage.types import UserError


class Launch(NamedTuple):
    """What the environment says of the processes.

    processes, rank: how many there are, and which one this is. coordinator: host:port of the first; None if JAX finds
    it. local_rank, local_processes: the same on this host, if known.
    """

    processes: int
    rank: int
    coordinator: str | None = None
    local_rank: int = 0
    local_processes: int = 1


def find_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """How this process was started, or None if it is alone.

    In this order: `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` and `JAX_COORDINATOR_ADDRESS` (`jaxage launch`, JobSet,
    Kubeflow Trainer), a Slurm step of several tasks, Open MPI, the workers of a Cloud TPU slice. A batch script of
    Slurm without `srun` is one process.

    Raises:
        UserError: if variables are missing, or do not go together.
    """

    def number(name: str, default: int | None = None) -> int:
        text = environ.get(name, default)
        try:
            return int(str(text))
        except ValueError as error:
            raise UserError(f"{name} must be a number to start several processes, it is {text!r}") from error

    if number("JAX_NUM_PROCESSES", 1) > 1:
        found = Launch(number("JAX_NUM_PROCESSES"), number("JAX_PROCESS_ID"), environ.get("JAX_COORDINATOR_ADDRESS"))
        if found.coordinator is None or ":" not in found.coordinator:
            raise UserError(f"JAX_COORDINATOR_ADDRESS must be HOST:PORT of process 0, it is {found.coordinator!r}")
    elif number("SLURM_STEP_NUM_TASKS", 1) > 1:
        node = number("SLURM_NODEID", 0)
        tasks = _expand(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        local = tasks[node] if node < len(tasks) else 1
        count, index = number("SLURM_STEP_NUM_TASKS"), number("SLURM_PROCID")
        found = Launch(count, index, None, number("SLURM_LOCALID", 0), local)
    elif number("OMPI_COMM_WORLD_SIZE", 1) > 1:
        locals_ = number("OMPI_COMM_WORLD_LOCAL_RANK", 0), number("OMPI_COMM_WORLD_LOCAL_SIZE", 1)
        found = Launch(number("OMPI_COMM_WORLD_SIZE"), number("OMPI_COMM_WORLD_RANK"), None, *locals_)
    elif len(workers := environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        found = Launch(len(workers), number("TPU_WORKER_ID"))
    else:
        return None
    if not 0 <= found.rank < found.processes:
        raise UserError(
            f"this is process {found.rank} of {found.processes}: numbers start at 0 and end below the count"
        )
    return found


def _expand(text: str) -> list[int]:
    """Slurm's "2(x3),1" is [2, 2, 2, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def local_devices(launch: Launch, visible: int) -> list[int]:
    """Which of a host's visible GPUs a process takes: an equal share of them, or all if each process sees its own.

    Args:
        launch: Of `find_launch`.
        visible: How many GPUs this process can see.

    Raises:
        UserError: if they cannot be divided equally.
    """
    if visible < launch.local_processes:
        if visible > 1 or launch.local_processes == 1:
            raise UserError(
                f"{launch.local_processes} processes on this host see {visible} GPUs: start one for each, or one in all"
            )
        return list(range(visible))
    each, rest = divmod(visible, launch.local_processes)
    if rest:
        raise UserError(
            f"{visible} GPUs do not divide among the {launch.local_processes} processes on this host: start one for "
            "each, or one in all"
        )
    return list(range(launch.local_rank * each, (launch.local_rank + 1) * each))


def visible_gpus() -> int:
    """How many GPUs this process may see, without asking JAX, which would take them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
