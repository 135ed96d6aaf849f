"""A network of ours run once, forward and backward, in float32 or, to compare gradients, in float64.

Gradients in float32 cannot be held to 1e-3 for every tensor: of the millions of numbers that enter a ReLU or ReLU6 a
few lie within rounding of its kink, each side rounds them to a side of its own, and single tensors of torch's own
float32 gradient then differ from its float64 one by up to 0.17 of their largest value. In float64 no number comes
close enough, and torch and we agree to 1e-7.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxage.models import layers
from jaxage.models.ops import batch_norm, conv, pool
from jaxage.models.ops.conv import ConvForm
from jaxage.models.registry import MODELS, create_model
from jaxage.types import Arch, Params, Variables
from jaxage.utils.trees import flatten
from tests.goldens.recipe import OUTPUTS


class Forward(NamedTuple):
    stages: dict[str, np.ndarray]
    batch_stats: Params


def shapes(arch: Arch) -> Variables:
    """What `init` would give, as shapes and dtypes."""
    variables: Variables = jax.eval_shape(create_model(arch, outputs=OUTPUTS).init, jax.random.key(0))
    return variables


def forward(arch: Arch, variables: Variables, images: np.ndarray, *, train: bool) -> Forward:
    """Every stage and the running statistics afterwards, in float32."""
    output = _forward(arch, train)(variables, images)
    return Forward(jax.device_get(output.stages), jax.device_get(output.batch_stats))


def gradient(
    arch: Arch,
    variables: Variables,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    train: bool,
    double: bool = True,
    form: ConvForm = "cpu",
) -> Params:
    """The gradient of the mean square difference of the logits from `targets`."""
    with _double_precision() if double else _nothing():
        inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (variables, images, targets))
        result: Params = jax.device_get(_gradient(arch, train, double, form)(*inputs))
    return result


@cache
def _forward(arch: Arch, train: bool) -> Any:
    model, train_bn = create_model(arch, outputs=OUTPUTS), _train_bn(arch, train)
    return jax.jit(
        lambda variables, images: model.apply(variables, images, train_bn=train_bn), compiler_options=_OPTIONS.get(arch)
    )


@cache
def _gradient(arch: Arch, train: bool, double: bool, form: ConvForm) -> Any:
    network = MODELS[arch].module(
        outputs=OUTPUTS,
        train_bn=_train_bn(arch, train),
        dtype=jnp.float64 if double else jnp.float32,
        units=MODELS[arch].units,
        conv_form=form,
    )

    def loss(params: Params, batch_stats: Params, images: Any, targets: Any) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        (logits, _), _ = network.apply(variables, images, mutable=["batch_stats"])
        return jnp.square(logits - targets).mean()

    def run(variables: Variables, images: Any, targets: Any) -> Params:
        return jax.grad(loss)(variables["params"], variables["batch_stats"], images, targets)

    return jax.jit(run, compiler_options=_OPTIONS.get(arch))


def _train_bn(arch: Arch, train: bool) -> frozenset[str]:
    modules = {leaf.rsplit(".", 1)[0] for leaf in flatten(shapes(arch)["batch_stats"])}
    return frozenset(modules) if train else frozenset()


_OPTIONS = {"mobilenet_v2": {"xla_backend_optimization_level": 0}}
"""MobileNetV2 compiles twice as fast without optimization and runs as fast; ResNets do not."""


@contextmanager
def _double_precision() -> Iterator[None]:
    """The layers keep statistics and the head in float32 whatever the dtype of the rest: read it as float64."""
    wide = SimpleNamespace(**vars(jnp) | {"float32": jnp.float64})
    with jax.enable_x64(True), ExitStack() as stack:
        for module in (batch_norm, conv, layers, pool):
            stack.enter_context(mock.patch.object(module, "jnp", wide))
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield
