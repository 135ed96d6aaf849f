"""The networks by name, each as three plain things: `init`, `apply` and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models import mobilenet, resnet
from jaxage.types import Arch, Dtype, Images, Logits, Params, Variables


class Output(NamedTuple):
    """What a network gives back.

    logits: float32 (batch, outputs).
    batch_stats: the running statistics after this batch; those of modules not in `train_bn` are as they were.
    stages: the activation of each stage by torchvision's name (before the ReLU for `bn1`).
    """

    logits: Logits
    batch_stats: Params
    stages: dict[str, Array]


@dataclass(frozen=True)
class Spec:
    """What is fixed by the architecture: its name, stages from input to output, units (the chain of which any tail
    can be run by itself), head, and number of outputs.
    """

    arch: Arch
    stages: tuple[str, ...]
    units: tuple[str, ...]
    head: str
    outputs: int


class Model(NamedTuple):
    """A network as functions.

    init(key) -> Variables: float32, torch's initialization.
    apply(variables, images, *, start=first unit, train_bn=frozenset(), dropout_key=None) -> Output: `images` are float32
        NHWC, normalized, or, with another `start`, what `features` gives for it; `train_bn` names the BatchNorm modules
        that normalize by the batch; dropout is on if a key is given.
    features(variables, images, stop) -> Array: what the unit `stop` takes, (batch, ...) in the trunk's dtype, with
        every BatchNorm by running statistics; the images themselves for the first unit.
    """

    init: Callable[[Array], Variables]
    apply: Callable[..., Output]
    features: Callable[[Variables, Images, str], Array]
    spec: Spec


MODELS: dict[Arch, tuple[type[nn.Module], tuple[str, ...], tuple[str, ...], str]] = {
    "resnet18": (resnet.ResNet18, resnet.STAGES, resnet.UNITS, "fc"),
    "mobilenet_v2": (mobilenet.MobileNetV2, mobilenet.STAGES, mobilenet.UNITS, "classifier"),
}


def create_model(arch: Arch, *, outputs: int = 1, dtype: Dtype = "float32") -> Model:
    """The network `arch` with a head of `outputs` numbers.

    Parameters are float32; `dtype` is what the trunk computes in (BatchNorm statistics, pooling and head stay
    float32). Raises ValueError for an unknown name.
    """
    if arch not in MODELS:
        raise ValueError(f"unknown arch {arch!r}: choose one of {', '.join(MODELS)}")
    network, stages, units, head = MODELS[arch]
    build = partial(network, outputs, dtype=jnp.dtype(dtype))

    def init(key: Array) -> Variables:
        variables = jax.jit(build().init)(key, jnp.zeros((1, 64, 64, 3)))
        return {name: variables[name] for name in ("params", "batch_stats")}

    def apply(
        variables: Variables,
        images: Array,
        *,
        start: str = units[0],
        train_bn: frozenset[str] = frozenset(),
        dropout_key: Array | None = None,
    ) -> Output:
        rngs: Any = None if dropout_key is None else {"dropout": dropout_key}
        dropout = dropout_key is not None
        part = build(train_bn=train_bn, units=units[units.index(start) :])
        (logits, activations), changed = part.apply(
            variables, images, dropout=dropout, rngs=rngs, mutable=["batch_stats"]
        )
        return Output(logits, changed["batch_stats"], activations)

    def features(variables: Variables, images: Images, stop: str) -> Array:
        result: Array = build(units=units[: units.index(stop)]).apply(variables, images)[0]
        return result

    return Model(init, apply, features, Spec(arch, stages, units, head, outputs))
