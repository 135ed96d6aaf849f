import json
import threading
from pathlib import Path

import pytest

from jaxage.types import UserError
from jaxage.utils import cluster
from jaxage.utils.cluster import Launch, find_launch, local_devices

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


def test_one_process_agrees_with_itself(tmp_path: Path) -> None:
    assert cluster.agree({"a": 1}) == {"a": 1}
    assert cluster.gather(3) == [3]
    assert cluster.first(lambda: "x") == "x"
    cluster.require_same({"data": "x"})
    cluster.require_shared(tmp_path)
    cluster.leave(0)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "count", lambda: 2)
    monkeypatch.setattr(cluster, "index", lambda: 1)
    monkeypatch.setattr(cluster, "_VISIBLE_S", 0.0)
    monkeypatch.setattr(cluster, "agree", lambda value: "0123" if value is None else value)
    monkeypatch.setattr(cluster, "gather", lambda value: [True, value])
    with pytest.raises(UserError, match=r"process 1 does not see .*/nowhere of process 0: choose a folder that all"):
        cluster.require_shared(tmp_path / "nowhere")


class Store:
    """The key-value store of `jax.distributed`, for threads that play the processes."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self.changed:
            assert key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout_ms: int) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, 10)
            return self.values[key]


@pytest.mark.parametrize("other", ["same", "other"])
def test_inputs_must_be_the_same(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    monkeypatch.setattr(cluster, "count", lambda: 2)
    monkeypatch.setattr(cluster, "_client", lambda: store)
    monkeypatch.setattr(cluster, "_next_key", lambda: "1")
    monkeypatch.setattr(cluster, "index", lambda: 0)
    store.key_value_set("1/1", json.dumps({"data": other, "weights": None}))
    if other == "same":
        cluster.require_same({"data": "same", "weights": None})
    else:
        with pytest.raises(UserError, match=r"processes 0 and 1 do not have the same data \(data: same and other\)"):
            cluster.require_same({"data": "same", "weights": None})
