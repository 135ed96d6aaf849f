from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.models.layers import BatchNorm, Conv, Linear, Sequential, kaiming_fan_out
from tests.models.compare import assert_same, draw


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
    train_bn: frozenset[str]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return BatchNorm(self.train_bn, name="bn1")(x, Conv(3, kernel_size=1, name="conv1"))


STATS = {"bn1": {"mean": jnp.float32([0.5, -1, 2]), "var": jnp.float32([4, 0.25, 1])}}
PARAMS = {
    "bn1": {"scale": jnp.float32([1, 2, 0.5]), "bias": jnp.float32([0, 1, -1])},
    "conv1": {"kernel": jnp.eye(3)[None, None]},
}


def normalize(x: np.ndarray, train_bn: frozenset[str]) -> Any:
    return Named(train_bn).apply({"params": PARAMS, "batch_stats": STATS}, jnp.asarray(x), mutable=["batch_stats"])


def test_live_batch_norm_normalises_by_the_batch_and_moves_unbiased_statistics() -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    found, changed = normalize(x, frozenset({"bn1"}))
    rows = x.reshape(-1, 3).astype(np.float64)
    mean, var = rows.mean(0), rows.var(0)
    scale, bias = (np.asarray(PARAMS["bn1"][name], np.float64) for name in ("scale", "bias"))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-4, atol=1e-5)
    after = changed["batch_stats"]["bn1"]
    np.testing.assert_allclose(after["mean"], 0.9 * STATS["bn1"]["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * STATS["bn1"]["var"] + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_live_batch_norm_is_the_same_on_every_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    here = normalize(x, frozenset({"bn1"}))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_same(jax.tree.leaves(normalize(x, frozenset({"bn1"}))), jax.tree.leaves(here), 1e-6)


def test_frozen_batch_norm_uses_its_running_statistics_and_keeps_them() -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    found, changed = normalize(x, frozenset({"bn2"}))
    mean, var, scale, bias = (np.asarray(v) for v in (*STATS["bn1"].values(), *PARAMS["bn1"].values()))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-5, atol=1e-5)
    for name, value in changed["batch_stats"]["bn1"].items():
        np.testing.assert_array_equal(value, STATS["bn1"][name])


def test_large_means_do_not_swallow_the_variance() -> None:
    x = draw(0, 4, 8, 8, 3) + 1000
    _, changed = normalize(x, frozenset({"bn1"}))
    var = x.reshape(-1, 3).astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(changed["batch_stats"]["bn1"]["var"], 0.9 * STATS["bn1"]["var"] + 0.1 * var, rtol=1e-3)


def test_one_value_per_channel_is_an_error_as_in_torch() -> None:
    with pytest.raises(ValueError, match="bn1: a BatchNorm in training mode needs more than one value"):
        normalize(draw(0, 1, 1, 1, 3), frozenset({"bn1"}))
    normalize(draw(0, 1, 1, 1, 3), frozenset())


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
