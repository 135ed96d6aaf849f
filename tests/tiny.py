"""A network small enough to compile in a second, with a frozen part, BatchNorm and a head, and the same interface."""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxage.models.layers import BatchNorm, Conv, Linear, pool
from jaxage.models.registry import Model, Output, Spec
from jaxage.types import Variables


class _Tiny(nn.Module):
    outputs: int
    live: Collection[str] = frozenset()

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = Conv(4, stride=2, name="conv1")(x)
        x = nn.relu(BatchNorm(live=self.live, name="bn1")(x))
        x = Conv(8, stride=2, name="layer4")(x)
        x = nn.relu(BatchNorm(live=self.live, name="bn4")(x))
        return Linear(self.outputs, name="fc")(pool(x))


def tiny_model(outputs: int = 1) -> Model:
    """`conv1, bn1, layer4, bn4, fc`."""

    def init(key: Any) -> Variables:
        return dict(_Tiny(outputs).init(key, jnp.zeros((1, 8, 8, 3))))

    def apply(variables: Variables, images: Any, *, live: Any = frozenset(), dropout_key: Any = None) -> Output:
        logits, changed = _Tiny(outputs, live).apply(variables, images, mutable=["batch_stats"])
        return Output(logits, jax.tree.map(jnp.asarray, changed["batch_stats"]), {"fc": logits})

    return Model(init, apply, Spec("resnet18", ("fc",), "fc", outputs))
