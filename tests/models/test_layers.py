from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate

from jaxage.mesh import along_batch, make_mesh, replicated
from jaxage.models.layers import (
    BatchNorm,
    Conv,
    Linear,
    Sequential,
    conv_depthwise,
    conv_general,
    conv_matmul,
    kaiming_fan_out,
    max_pool,
    normalise_by_batch,
    normalise_by_batch_on_cpu,
    pool,
)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scipy_conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """torch's convolution by its definition: a zero-padded cross-correlation, every `stride`-th value."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    maps = [
        [sum(correlate(image[..., i], kernel[..., i, o], "valid") for i in range(x.shape[3])) for image in padded]
        for o in range(kernel.shape[3])
    ]
    return np.moveaxis(np.asarray(maps), 0, -1)[:, ::stride, ::stride]


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 9), st.integers(5, 9), st.sampled_from([1, 3, 5]), st.integers(1, 3))
def test_convolution_pads_and_strides_as_torch_defines_it(height: int, width: int, size: int, stride: int) -> None:
    x, kernel = draw(0, 2, height, width, 3), draw(1, size, size, 3, 4)
    found = conv_general(jnp.asarray(x), jnp.asarray(kernel), stride, size // 2)
    np.testing.assert_allclose(found, scipy_conv(x, kernel, stride, size // 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(7, 6, 1), (7, 6, 2), (3, 8, 2), (9, 9, 2), (2, 2, 1), (1, 1, 2)]
)
@pytest.mark.parametrize("form", ["depthwise", "pointwise", "full"])
def test_the_forms_for_the_cpu_are_the_same_functions(form: str, height: int, width: int, stride: int) -> None:
    depthwise, size = form == "depthwise", 1 if form == "pointwise" else 3
    x = jnp.asarray(draw(0, 2, height, width, 6))
    kernel = jnp.asarray(draw(1, size, size, *((1, 6) if depthwise else (6, 4))))

    def ours(x: Any, kernel: Any) -> Any:
        return (conv_depthwise if depthwise else conv_matmul)(x, kernel, stride, size // 2)

    def theirs(x: Any, kernel: Any) -> Any:
        return conv_general(x, kernel, stride, size // 2, 6 if depthwise else 1)

    def both(function: Any) -> Any:
        gradient = jax.grad(lambda *arguments: jnp.sin(function(*arguments)).sum(), argnums=(0, 1))
        return jax.jit(lambda x, kernel: (function(x, kernel), gradient(x, kernel)))(x, kernel)

    for a, b in zip(jax.tree.leaves(both(ours)), jax.tree.leaves(both(theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def gradients(function: Any, *inputs: Any) -> list[np.ndarray]:
    """Those of a sum that weighs every output differently, in float32."""

    def loss(*inputs: Any) -> Any:
        outputs = jax.tree.leaves(function(*inputs))
        return sum((y.astype(jnp.float32) * draw(10 + i, *y.shape)).sum() for i, y in enumerate(outputs))

    found = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs)))))(*inputs)
    return [np.asarray(gradient, np.float32) for gradient in found]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize(("size", "padding"), [(1, 0), (2, 1), (3, 0), (3, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_gradients_are_those_of_xlas_convolution(
    stride: int, size: int, padding: int, dtype: Any, tolerance: float
) -> None:
    x, kernel = jnp.asarray(draw(0, 2, 8, 7, 6), dtype), jnp.asarray(draw(1, size, size, 1, 6), dtype)
    found = gradients(lambda x, kernel: conv_depthwise(x, kernel, stride, padding), x, kernel)
    exact = (x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert_same(found, gradients(lambda x, kernel: conv_general(x, kernel, stride, padding, 6), *exact), tolerance)


@pytest.mark.parametrize("outputs", [3, 6, 9])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_matrix_product_gradients_are_those_of_xlas_convolution(size: int, stride: int, outputs: int) -> None:
    x, kernel = jnp.asarray(draw(0, 2, 8, 7, 6)), jnp.asarray(draw(1, size, size, 6, outputs))
    found = gradients(lambda x, kernel: conv_matmul(x, kernel, stride, size // 2), x, kernel)
    assert_same(found, gradients(lambda x, kernel: conv_general(x, kernel, stride, size // 2), x, kernel), 2e-6)


@pytest.mark.parametrize(("mean", "tolerance"), [(0.0, 2e-6), (10.0, 1e-5), (1000.0, 1e-3)])
def test_batch_statistics_have_the_gradients_of_their_formula(mean: float, tolerance: float) -> None:
    inputs = (jnp.asarray(draw(0, 4, 9, 8, 6) + mean), jnp.asarray(draw(1, 6)), jnp.asarray(draw(2, 6)))
    assert_same(gradients(normalise_by_batch_on_cpu, *inputs), gradients(normalise_by_batch, *inputs), tolerance)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_on_two_devices_stay_with_their_part_of_the_batch(stride: int) -> None:
    mesh = make_mesh(jax.devices()[:2])
    x, kernel, scale = draw(0, 4, 8, 7, 6), draw(1, 3, 3, 1, 6), draw(2, 6)

    def loss(x: Any, kernel: Any, scale: Any) -> Any:
        y, _, _ = normalise_by_batch_on_cpu(conv_depthwise(x, kernel, stride, 1), scale, scale)
        return jnp.square(conv_matmul(y, jnp.asarray(draw(3, 1, 1, 6, 4)), 1, 0)).mean()

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    split, whole = along_batch(mesh), replicated(mesh)
    two = jax.jit(gradient, in_shardings=(split, whole, whole), out_shardings=(split, whole, whole))
    assert_same([*two(x, kernel, scale)], [*jax.jit(gradient)(x, kernel, scale)], 1e-5)
    compiled = two.lower(x, kernel, scale).compile().as_text()
    assert "all-reduce" in compiled
    assert not any(word in compiled for word in ("all-gather", "all-to-all", "collective-permute"))


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_platform_chooses_the_form_and_not_the_result(
    depthwise: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = jnp.asarray(draw(0, 2, 7, 6, 8))
    layer = Conv(8, kernel_size=3 if depthwise else 1, stride=2, depthwise=depthwise)
    variables = layer.init(jax.random.key(0), x)
    here = layer.apply(variables, x)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    np.testing.assert_allclose(layer.apply(variables, x), here, rtol=1e-5, atol=1e-5)
    grouped = "feature_group_count=8" in str(jax.make_jaxpr(layer.apply)(variables, x))
    assert grouped is (depthwise and backend == "gpu")


class Named(nn.Module):
    live: frozenset[str]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return BatchNorm(self.live, name="bn1")(x, Conv(3, kernel_size=1, name="conv1"))


STATS = {"bn1": {"mean": jnp.float32([0.5, -1, 2]), "var": jnp.float32([4, 0.25, 1])}}
PARAMS = {
    "bn1": {"scale": jnp.float32([1, 2, 0.5]), "bias": jnp.float32([0, 1, -1])},
    "conv1": {"kernel": jnp.eye(3)[None, None]},
}


def normalise(x: np.ndarray, live: frozenset[str]) -> Any:
    return Named(live).apply({"params": PARAMS, "batch_stats": STATS}, jnp.asarray(x), mutable=["batch_stats"])


def test_live_batch_norm_normalises_by_the_batch_and_moves_unbiased_statistics() -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    found, changed = normalise(x, frozenset({"bn1"}))
    rows = x.reshape(-1, 3).astype(np.float64)
    mean, var = rows.mean(0), rows.var(0)
    scale, bias = (np.asarray(PARAMS["bn1"][name], np.float64) for name in ("scale", "bias"))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-4, atol=1e-5)
    after = changed["batch_stats"]["bn1"]
    np.testing.assert_allclose(after["mean"], 0.9 * STATS["bn1"]["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * STATS["bn1"]["var"] + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_live_batch_norm_is_the_same_on_every_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    here = normalise(x, frozenset({"bn1"}))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_same(jax.tree.leaves(normalise(x, frozenset({"bn1"}))), jax.tree.leaves(here), 1e-6)


def test_frozen_batch_norm_uses_its_running_statistics_and_keeps_them() -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    found, changed = normalise(x, frozenset({"bn2"}))
    mean, var, scale, bias = (np.asarray(v) for v in (*STATS["bn1"].values(), *PARAMS["bn1"].values()))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-5, atol=1e-5)
    for name, value in changed["batch_stats"]["bn1"].items():
        np.testing.assert_array_equal(value, STATS["bn1"][name])


def test_large_means_do_not_swallow_the_variance() -> None:
    x = draw(0, 4, 8, 8, 3) + 1000
    _, changed = normalise(x, frozenset({"bn1"}))
    var = x.reshape(-1, 3).astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(changed["batch_stats"]["bn1"]["var"], 0.9 * STATS["bn1"]["var"] + 0.1 * var, rtol=1e-3)


def test_one_value_per_channel_is_an_error_as_in_torch() -> None:
    with pytest.raises(ValueError, match="bn1: a BatchNorm in training mode needs more than one value"):
        normalise(draw(0, 1, 1, 1, 3), frozenset({"bn1"}))
    normalise(draw(0, 1, 1, 1, 3), frozenset())


def test_linear_is_torchs_and_starts_as_torchs() -> None:
    x = jnp.asarray(draw(0, 5, 64))
    variables = Linear(1000).init(jax.random.key(0), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    np.testing.assert_allclose(
        Linear(1000).apply(variables, x), np.asarray(x) @ kernel + bias[None], rtol=1e-4, atol=1e-5
    )
    for values in (kernel, bias):
        assert np.abs(values).max() <= 1 / 8
        assert np.std(values) == pytest.approx(1 / 8 / np.sqrt(3), rel=0.05)


def test_kernels_start_as_torchvisions() -> None:
    kernel = kaiming_fan_out(jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (3 * 3 * 128)), rel=0.02)
    assert np.abs(kernel).max() > 3 * np.std(kernel)


def test_a_part_that_does_nothing_keeps_its_number() -> None:
    network = Sequential((None, lambda name: nn.Dense(2, name=name)))
    variables = network.init(jax.random.key(0), jnp.ones((1, 3)))
    assert list(variables["params"]) == ["1"]


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 10, 2), (1, 5, 5, 1), (1, 1, 2, 1)])
def test_max_pooling_is_torchs_and_gives_its_gradient_to_the_first_of_the_largest(shape: tuple[int, ...]) -> None:
    x = np.maximum(np.round(draw(0, *shape)), 0)  # many ties
    y, pull = jax.vjp(max_pool, jnp.asarray(x))
    dy = draw(1, *y.shape)
    expected = np.zeros_like(x)
    for b, p, q, c in np.ndindex(*y.shape):
        rows, columns = range(max(0, 2 * p - 1), 2 * p + 2), range(max(0, 2 * q - 1), 2 * q + 2)
        seen = [(b, i, j, c) for i in rows for j in columns if i < shape[1] and j < shape[2]]
        first = max(seen, key=lambda place: x[place])
        assert y[b, p, q, c] == x[first]
        expected[first] += dy[b, p, q, c]
    np.testing.assert_allclose(pull(jnp.asarray(dy))[0], expected, rtol=1e-6, atol=1e-6)


def test_pooling_is_the_mean_in_float32() -> None:
    x = jnp.asarray(draw(0, 2, 3, 5, 4), jnp.bfloat16)
    assert pool(x).dtype == jnp.float32
    np.testing.assert_allclose(pool(x), np.asarray(x, np.float32).mean((1, 2)), rtol=1e-5, atol=1e-6)
