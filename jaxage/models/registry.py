"""The networks by name, each as three pure functions (`init`, `apply`, `features`) and a description."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models import mobilenet, resnet
from jaxage.models.network import Network
from jaxage.models.ops.conv import ConvForm
from jaxage.types import Arch, Dtype, Images, Logits, Params, UserError, Variables

MODELS: dict[Arch, Network] = {**resnet.NETWORKS, **mobilenet.NETWORKS}
"""Every network that `create_model` builds; add an entry to use a network of your own."""


_FORMS: dict[str, ConvForm] = {"cpu": "cpu", "gpu": "gpu"}


class Output(NamedTuple):
    """What a network returns.

    Attributes:
        logits: float32 (batch, outputs).
        batch_stats: The running statistics after this batch; those of modules not in `train_bn` are unchanged.
        stages: The activation of each stage by torchvision's name (before the ReLU for `bn1`).
    """

    logits: Logits
    batch_stats: Params
    stages: dict[str, Array]


@dataclass(frozen=True)
class Spec:
    """What describes a model: its key in `MODELS`, that entry's stages, units and head, and the number of outputs."""

    arch: Arch
    stages: tuple[str, ...]
    units: tuple[str, ...]
    head: str
    outputs: int


class Model(NamedTuple):
    """A network as functions.

    Attributes:
        init: `init(key) -> Variables`, float32, with torch's initialization.
        apply: `apply(variables, images, *, start=first unit, train_bn=frozenset(), dropout_key=None) -> Output`.
            `images` are float32 NHWC, normalized, or, with another `start`, what `features` gives for that unit.
            `train_bn` has the dotted paths of the BatchNorm modules in training mode. Dropout is on if there is a key.
        features: `features(variables, images, stop) -> Array`: the input of the unit `stop`, (batch, ...) in the
            trunk's dtype, with every BatchNorm in eval mode; for the first unit the images themselves.
        spec: The description.
    """

    init: Callable[[Array], Variables]
    apply: Callable[..., Output]
    features: Callable[[Variables, Images, str], Array]
    spec: Spec


def create_model(arch: Arch, *, outputs: int = 1, dtype: Dtype = "float32", conv_form: ConvForm | None = None) -> Model:
    """Build a network as pure functions.

    Args:
        arch: A key of `MODELS`.
        outputs: The width of the new head.
        dtype: Of the trunk's computation. Parameters, BatchNorm statistics, pooling and head are always float32.
        conv_form: "xla" for plain layers, which run anywhere; "cpu" and "gpu" for forms of them that are faster there.
            None chooses by JAX's default backend. Name it to compile for another platform.

    Raises:
        UserError: if `arch` is not in `MODELS`.
    """
    network = find_network(arch)
    units = network.units
    build = partial(
        network.module,
        outputs=outputs,
        dtype=jnp.dtype(dtype),
        conv_form=conv_form or _FORMS.get(jax.default_backend(), "xla"),
    )

    def init(key: Array) -> Variables:
        whole = build(train_bn=frozenset(), units=units)
        variables = jax.jit(whole.init)(key, jnp.zeros((1, 64, 64, 3)))
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
        part = build(train_bn=frozenset(), units=units[: units.index(stop)])
        result: Array = part.apply(variables, images)[0]
        return result

    return Model(init, apply, features, Spec(arch, network.stages, units, network.head, outputs))


def find_network(arch: Arch) -> Network:
    """The entry of `MODELS`. Raises UserError with the choices if there is none of that name."""
    if arch not in MODELS:
        close = difflib.get_close_matches(arch, MODELS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"unknown network {arch!r}{hint}: choose one of {', '.join(MODELS)}")
    return MODELS[arch]
