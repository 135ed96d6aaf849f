from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxage.types import UserError
from jaxage.utils.sharding import (
    along_batch,
    block_if_multi_cpu,
    inference_batch,
    make_mesh,
    mesh_for,
    replicate,
    replicated,
)


def test_all_devices_or_some_along_one_axis() -> None:
    assert make_mesh().shape == {"data": 2}
    assert make_mesh(jax.devices()[:1]).shape == {"data": 1}


def test_a_batch_is_split_and_the_rest_is_everywhere() -> None:
    mesh = make_mesh()
    batch = jax.device_put(np.arange(8), along_batch(mesh))
    assert [shard.data.tolist() for shard in batch.addressable_shards] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    whole = jax.device_put(np.arange(8), replicated(mesh))
    assert [shard.data.shape for shard in whole.addressable_shards] == [(8,), (8,)]


def test_copies_may_be_donated_without_touching_the_original() -> None:
    mesh = make_mesh()
    numbers = np.ones(4, np.float32)
    original = {"numpy": numbers, "one device": jnp.asarray(numbers), "mesh": replicate(numbers, mesh)}
    copy = replicate(original, mesh)
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(copy)
    for leaf in original.values():
        np.testing.assert_array_equal(leaf, 1)


def test_programs_on_several_cpus_are_waited_for() -> None:
    """Without it, a few hundred dispatches of this end in XLA's abort: both threads wait in different all-gathers."""
    mesh = make_mesh()
    function = jax.jit(
        lambda w, rows: jnp.tanh(w[rows] @ w).sum(1),
        in_shardings=(replicated(mesh), along_batch(mesh)),
        out_shardings=replicated(mesh),
    )
    weights = replicate(np.ones((512, 512), np.float32), mesh)
    rows = np.arange(256)
    assert all(block_if_multi_cpu(function(weights, rows)).is_ready() for _ in range(500))


def test_as_many_cores_as_divide_the_batch() -> None:
    assert [mesh_for(size).size for size in (32, 33, 1)] == [2, 1, 1]


def test_gpus_predict_many_at_once() -> None:
    mesh = make_mesh(jax.devices()[:2])
    assert [inference_batch(mesh, size) for size in (1, 32, 33, 600)] == [2, 32, 34, 600]
    gpus = mock.Mock(spec=Mesh, size=2, devices=np.array([SimpleNamespace(platform="gpu")] * 2))
    assert [inference_batch(gpus, size) for size in (32, 4097)] == [1024, 4098]


def test_a_batch_that_does_not_divide_among_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        platform = "gpu"

    monkeypatch.setattr(jax, "devices", lambda: [Gpu(), Gpu()])
    with pytest.raises(UserError, match=r"--batch-size 33 .* 2 devices: use a multiple of 2"):
        mesh_for(33)
