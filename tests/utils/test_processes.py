import pytest

from jaxage.types import UserError
from jaxage.utils.processes import Launch, find_launch, local_devices

JAX = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": "node1:1234"}


def slurm(tasks: int, per_node: str, node: int, local: int, index: int) -> dict[str, str]:
    """What srun sets."""
    return {
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(local),
        "SLURM_PROCID": str(index),
    }


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, None),  # a batch script without srun
        (slurm(1, "1", 0, 0, 0), None),
        (JAX, Launch(2, 1, "node1:1234")),
        (JAX | slurm(8, "8", 0, 3, 3), Launch(2, 1, "node1:1234")),
        (slurm(8, "8", 0, 3, 3), Launch(8, 3, None, 3, 8)),
        (slurm(8, "2(x3),1,1", 3, 0, 6), Launch(8, 6, None, 0, 1)),
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
            | {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            Launch(4, 3, None, 1, 2),
        ),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, Launch(2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ],
)
def test_how_a_process_was_started(environ: dict[str, str], expected: Launch | None) -> None:
    assert find_launch(environ) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JAX_PROCESS_ID": "2"}, "process 2 of 2: numbers start at 0"),
        ({"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID must be a number .* 'first'"),
        ({"JAX_COORDINATOR_ADDRESS": "node1"}, "must be HOST:PORT of process 0, it is 'node1'"),
    ],
)
def test_an_environment_that_is_wrong_is_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_launch(JAX | change)


@pytest.mark.parametrize(
    ("local_index", "local_count", "visible", "expected"),
    [
        (0, 1, 8, [0, 1, 2, 3, 4, 5, 6, 7]),  # one task for a node of 8 GPUs takes all of them
        (3, 8, 8, [3]),
        (1, 2, 8, [4, 5, 6, 7]),
        (3, 8, 1, [0]),  # --gpus-per-task=1: each sees its own as number 0
    ],
)
def test_gpus_are_shared_equally(local_index: int, local_count: int, visible: int, expected: list[int]) -> None:
    assert local_devices(Launch(8, 0, None, local_index, local_count), visible) == expected


@pytest.mark.parametrize("visible", [3, 12])
def test_gpus_that_do_not_divide_are_refused(visible: int) -> None:
    with pytest.raises(UserError, match="start one for each, or one in all"):
        local_devices(Launch(8, 0, None, 0, 8), visible)
