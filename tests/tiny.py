"""A network small enough to compile in a second, with a frozen part, BatchNorm and a head, and the same interface."""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxage.models.layers import BatchNorm, Conv, Linear
from jaxage.models.ops.pool import pool
from jaxage.models.registry import Model, Output, Spec
from jaxage.types import Variables

UNITS = ("conv1", "layer4", "avgpool", "fc")


class _Tiny(nn.Module):
    outputs: int
    train_bn: Collection[str] = frozenset()
    units: Collection[str] = UNITS

    @nn.compact
    def __call__(self, x: Any) -> Any:
        if "conv1" in self.units:
            x = nn.relu(BatchNorm(train_bn=self.train_bn, name="bn1")(x, Conv(4, stride=2, name="conv1")))
        if "layer4" in self.units:
            x = nn.relu(BatchNorm(train_bn=self.train_bn, name="bn4")(x, Conv(8, stride=2, name="layer4")))
        x = pool(x) if "avgpool" in self.units else x
        return Linear(self.outputs, name="fc")(x) if "fc" in self.units else x


def tiny_model(outputs: int = 1) -> Model:
    """`conv1, bn1, layer4, bn4, fc`."""

    def init(key: Any) -> Variables:
        return dict(_Tiny(outputs).init(key, jnp.zeros((1, 8, 8, 3))))

    def apply(
        variables: Variables, images: Any, *, start: str = "conv1", train_bn: Any = frozenset(), dropout_key: Any = None
    ) -> Output:
        part = _Tiny(outputs, train_bn, UNITS[UNITS.index(start) :])
        logits, changed = part.apply(variables, images, mutable=["batch_stats"])
        return Output(logits, jax.tree.map(jnp.asarray, changed["batch_stats"]), {"fc": logits})

    def features(variables: Variables, images: Any, stop: str) -> Any:
        return _Tiny(outputs, units=UNITS[: UNITS.index(stop)]).apply(variables, images)

    return Model(init, apply, features, Spec("resnet18", ("fc",), UNITS, "fc", outputs))
