import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.models.layers import BatchNorm, Conv, Linear, Sequential, conv_norm, kaiming_fan_out
from jaxage.models.ops.conv import ConvForm
from tests.models.compare import assert_same, draw


@pytest.mark.parametrize("depthwise", [True, False])
def test_both_forms_of_a_convolution_agree(depthwise: bool) -> None:
    x = jnp.asarray(draw(0, 2, 7, 6, 8))
    shape = {"features": 8, "kernel_size": 3 if depthwise else 1, "stride": 2, "depthwise": depthwise}
    cpu, xla = (Conv(**shape, conv_form=form) for form in ("cpu", "xla"))  # type: ignore[arg-type]
    variables = cpu.init(jax.random.key(0), x)
    np.testing.assert_allclose(cpu.apply(variables, x), xla.apply(variables, x), rtol=1e-5, atol=1e-5)
    found = ["conv_general_dilated" in str(jax.make_jaxpr(layer.apply)(variables, x)) for layer in (cpu, xla)]
    assert found == [False, True]


class Named(nn.Module):
    train_bn: frozenset[str]
    conv_form: ConvForm = "cpu"
    eps: float = 1e-5
    folded: bool = True
    ceiling: float | None = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        conv = Conv(3, kernel_size=1, conv_form=self.conv_form, name="conv1")
        norm = BatchNorm(3, self.train_bn, eps=self.eps, conv_form=self.conv_form, name="bn1")
        return conv_norm(conv, norm, x, self.ceiling) if self.folded else norm(conv(x), self.ceiling)


STATS = {"bn1": {"mean": jnp.float32([0.5, -1, 2]), "var": jnp.float32([4, 0.25, 1])}}
PARAMS = {
    "bn1": {"scale": jnp.float32([1, 2, 0.5]), "bias": jnp.float32([0, 1, -1])},
    "conv1": {"kernel": jnp.eye(3)[None, None]},
}


def normalize(x: np.ndarray, train_bn: frozenset[str], **fields: Any) -> Any:
    network = Named(train_bn, **fields)
    return network.apply({"params": PARAMS, "batch_stats": STATS}, jnp.asarray(x), mutable=["batch_stats"])


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_training_mode_normalizes_by_the_batch_and_updates_unbiased_statistics(eps: float) -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    found, changed = normalize(x, frozenset({"bn1"}), eps=eps)
    rows = x.reshape(-1, 3).astype(np.float64)
    mean, var = rows.mean(0), rows.var(0)
    scale, bias = (np.asarray(PARAMS["bn1"][name], np.float64) for name in ("scale", "bias"))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + eps) * scale + bias, rtol=1e-4, atol=1e-5)
    after = changed["batch_stats"]["bn1"]
    np.testing.assert_allclose(after["mean"], 0.9 * STATS["bn1"]["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * STATS["bn1"]["var"] + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("ceiling", [None, math.inf, 0.5])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("mode", ["bn1", "none"])
def test_all_forms_agree(mode: str, folded: bool, ceiling: float | None) -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    fields = {"folded": folded, "ceiling": ceiling}
    cpu, gpu, xla = (normalize(x, frozenset({mode}), conv_form=form, **fields) for form in ("cpu", "gpu", "xla"))
    assert_same(jax.tree.leaves(cpu), jax.tree.leaves(xla), 1e-6)
    assert_same(jax.tree.leaves(gpu), jax.tree.leaves(xla), 1e-6)
    assert ceiling is None or (xla[0].min() == 0 and xla[0].max() <= ceiling)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_eval_mode_uses_its_running_statistics_and_keeps_them(eps: float, folded: bool) -> None:
    x = draw(0, 2, 3, 4, 3) * 3 + 1
    found, changed = normalize(x, frozenset({"bn2"}), eps=eps, folded=folded)
    mean, var, scale, bias = (np.asarray(v) for v in (*STATS["bn1"].values(), *PARAMS["bn1"].values()))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + eps) * scale + bias, rtol=1e-5, atol=1e-5)
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
    network = Sequential((None, partial(Linear, 2)))
    variables = network.init(jax.random.key(0), jnp.ones((1, 3)))
    assert list(variables["params"]) == ["1"]


def test_a_convolution_without_a_batch_norm_runs_in_its_place() -> None:
    parts = (partial(Conv, 2, 1), partial(BatchNorm, 2), partial(Conv, 5, 1))
    network, x = Sequential(parts), jnp.ones((1, 2, 2, 3))
    assert network.apply(network.init(jax.random.key(0), x), x).shape == (1, 2, 2, 5)
