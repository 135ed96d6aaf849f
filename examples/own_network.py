"""A network of your own, as an entry of `jaxage.MODELS`: freezing, caching, training and reports then know it."""

from collections.abc import Collection
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

import jaxage
from jaxage.models.layers import BatchNorm, Conv, Linear
from jaxage.types import Json


class SmallNet(nn.Module):
    """Three convolutions and a head. The fields are those that `jaxage.Network` asks for."""

    outputs: int
    train_bn: Collection[str]
    dtype: Any
    units: Collection[str]
    conv_form: Any

    @nn.compact
    def __call__(self, x: Any, dropout: bool = False) -> tuple[Any, dict[str, Any]]:
        """Run the units that are asked for: frozen ones run once, and the others from cached features."""
        conv = partial(Conv, stride=2, dtype=self.dtype, conv_form=self.conv_form)
        norm = partial(BatchNorm, train_bn=self.train_bn, dtype=self.dtype, conv_form=self.conv_form)
        stages = {}
        for name, features in (("conv1", 16), ("conv2", 32), ("conv3", 64)):
            if name in self.units:
                x = nn.relu(norm(features, name=f"bn_{name}")(conv(features, name=name)(x)))
                stages[name] = x
        if "head" in self.units:
            stages["head"] = x = Linear(self.outputs, name="head")(x.astype(jnp.float32).mean((1, 2)))
        return x, stages


UNITS = ("conv1", "conv2", "conv3", "head")


def main() -> Json:
    """Train it on drawn faces, with its first convolution frozen."""
    jaxage.MODELS["small"] = jaxage.Network(SmallNet, "SmallNet", "this file", stages=UNITS, units=UNITS, head="head")
    trainable = "head,conv3,bn_conv3,conv2,bn_conv2"
    config = jaxage.TrainConfig(arch="small", trainable=trainable, weights="random", loss="huber", learning_rate=3e-3)
    return jaxage.train(config)


if __name__ == "__main__":
    main()
