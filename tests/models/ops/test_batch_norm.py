from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxage.models.ops.batch_norm import normalize_by_batch, normalize_by_batch_on_cpu, normalize_by_batch_on_gpu
from jaxage.models.ops.conv import conv_depthwise, conv_matmul
from jaxage.models.ops.relu import RELU, RELU6
from jaxage.utils.sharding import along_batch, make_mesh, replicated
from tests.models.compare import assert_same, draw, gradients


@pytest.mark.parametrize(("mean", "tolerance"), [(0.0, 2e-6), (10.0, 1e-5), (1000.0, 1e-3)])
def test_batch_statistics_have_the_gradients_of_their_formula(mean: float, tolerance: float) -> None:
    inputs = (jnp.asarray(draw(0, 4, 9, 8, 6) + mean), jnp.asarray(draw(1, 6)), jnp.asarray(draw(2, 6)))

    def run(normalize: Any) -> Any:
        return lambda x, scale, bias: normalize(x, scale, bias, 1e-3)

    found, expected = (gradients(run(f), *inputs) for f in (normalize_by_batch_on_cpu, normalize_by_batch))
    assert_same(found, expected, tolerance)


@pytest.mark.parametrize("ceiling", [None, RELU, 0.5])
@pytest.mark.parametrize(("mean", "near", "tolerance"), [(0.0, 0.0, 2e-6), (10.0, 9.0, 1e-5), (1000.0, 1001.0, 1e-3)])
def test_the_form_for_gpus_is_the_same_function(
    mean: float, near: float, tolerance: float, ceiling: float | None
) -> None:
    inputs = (jnp.asarray(draw(0, 4, 9, 8, 6) + mean), jnp.asarray(draw(1, 6)), jnp.asarray(draw(2, 6)))

    def fused(x: Any, scale: Any, bias: Any) -> Any:
        return normalize_by_batch_on_gpu(x, scale, bias, jnp.full(6, near), 1e-3, ceiling)

    def plain(x: Any, scale: Any, bias: Any) -> Any:
        y, *statistics = normalize_by_batch(x, scale, bias, 1e-3)
        return y if ceiling is None else jnp.clip(y, 0, ceiling), *statistics

    assert_same(jax.tree.leaves(fused(*inputs)), jax.tree.leaves(plain(*inputs)), tolerance)
    assert_same(gradients(fused, *inputs), gradients(plain, *inputs), 2 * tolerance)


def test_the_form_for_gpus_gives_the_dtype_it_is_given() -> None:
    exact = (jnp.asarray(draw(0, 4, 9, 8, 6)), jnp.asarray(draw(1, 6)), jnp.asarray(draw(2, 6)))
    rough = (exact[0].astype(jnp.bfloat16), *exact[1:])

    def run(x: Any, scale: Any, bias: Any) -> Any:
        y, *statistics = normalize_by_batch_on_gpu(x, scale, bias, jnp.zeros(6), 1e-3, RELU6)
        assert y.dtype == x.dtype
        assert all(each.dtype == jnp.float32 for each in statistics)
        return y, *statistics

    assert_same(gradients(run, *rough), gradients(run, *exact), 2e-2)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_on_two_devices_stay_with_their_part_of_the_batch(stride: int) -> None:
    mesh = make_mesh(jax.devices()[:2])
    x, kernel, scale = draw(0, 4, 8, 7, 6), draw(1, 3, 3, 1, 6), draw(2, 6)

    def loss(x: Any, kernel: Any, scale: Any) -> Any:
        y, _, _ = normalize_by_batch_on_cpu(conv_depthwise(x, kernel, stride, 1), scale, scale, 1e-5)
        return jnp.square(conv_matmul(y, jnp.asarray(draw(3, 1, 1, 6, 4)), 1, 0)).mean()

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    split, whole = along_batch(mesh), replicated(mesh)
    two = jax.jit(gradient, in_shardings=(split, whole, whole), out_shardings=(split, whole, whole))
    assert_same([*two(x, kernel, scale)], [*jax.jit(gradient)(x, kernel, scale)], 1e-5)
    compiled = two.lower(x, kernel, scale).compile().as_text()
    assert "all-reduce" in compiled
    assert not any(word in compiled for word in ("all-gather", "all-to-all", "collective-permute"))
