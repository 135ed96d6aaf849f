import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
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
    split_batch,
    split_items,
    take,
)


def test_all_devices_or_some_on_one_host_or_more() -> None:
    assert make_mesh().shape == {"host": 1, "device": 2}
    assert make_mesh(jax.devices()[:1]).shape == {"host": 1, "device": 1}
    assert make_mesh(jax.devices(), hosts=2).shape == {"host": 2, "device": 1}


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_a_batch_is_taken_from_items_that_are_split(hosts: int, dtype: Any) -> None:
    mesh = make_mesh(jax.devices(), hosts)
    items = np.random.default_rng(0).integers(0, 256, (9, 4, 3)).astype(dtype)
    rows = np.array([8, 0, 8, 3, 1, 7], np.int32)
    batch = jax.jit(lambda items, rows: take(items, rows, mesh))(split_items(items, mesh), rows)
    assert batch.sharding.is_equivalent_to(along_batch(mesh), 3)
    np.testing.assert_array_equal(batch, items[rows])
    np.testing.assert_array_equal(split_batch(items, rows, mesh), items[rows])


EIGHT = """
import json, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from jaxage.utils.sharding import along_batch, make_mesh, replicated, split_items, take
found = []
for hosts, n in ((1, 1), (1, 8), (2, 8)):
    mesh = make_mesh(jax.devices()[:n], hosts)
    items = split_items(np.arange(800 * 5, dtype=np.float32).reshape(800, 5), mesh)
    rows = np.arange(0, 800, 50, dtype=np.int32)
    compiled = jax.jit(lambda i, r: take(i, r, mesh), out_shardings=along_batch(mesh)).lower(items, rows).compile()
    text = compiled.as_text()
    found.append({
        "gathered": [line for line in text.splitlines() if "all-gather" in line and "[800," in line],
        "scattered": "reduce-scatter" in text or "all-to-all" in text,
        "share": items.addressable_shards[0].data.nbytes,
        "argument": compiled.memory_analysis().argument_size_in_bytes,
        "same": bool((np.asarray(compiled(items, rows)) == np.asarray(items)[rows]).all()),
    })
print(json.dumps(found))
"""


def test_each_of_eight_devices_keeps_an_eighth_and_the_set_is_never_gathered() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XLA_FLAGS")}
    printed = subprocess.check_output([sys.executable, "-c", EIGHT], env=environment, text=True)
    one, eight, hosts = json.loads(printed)
    assert all(found["same"] and not found["gathered"] for found in (one, eight, hosts))
    assert [found["share"] for found in (one, eight, hosts)] == [16000, 2000, 4000]
    assert eight["argument"] < one["argument"] / 7
    assert eight["scattered"]


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
