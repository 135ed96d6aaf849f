"""ResNet18 (He et al. 2015, arXiv:1512.03385), as torchvision builds it."""

from collections.abc import Collection
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models.layers import BatchNorm, Conv, Linear, Sequential, chosen
from jaxage.models.ops.conv import FeatureMap
from jaxage.models.ops.pool import max_pool, pool

STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")
UNITS = ("conv1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "avgpool", "fc")
"""The network as a chain: each unit takes what the one before it gives; `conv1` reaches to the pooling."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected (`downsample`) where the shape changes."""

    features: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """NHWC; height and width are divided by `stride`."""
        shortcut = x
        x = nn.relu(self.norm(name="bn1")(x, self.conv(self.features, stride=self.stride, name="conv1")))
        x = self.norm(name="bn2")(x, self.conv(self.features, name="conv2"))
        if self.stride != 1 or shortcut.shape[-1] != self.features:
            projection = partial(self.conv, self.features, kernel_size=1, stride=self.stride)
            shortcut = Sequential((projection, self.norm), name="downsample")(shortcut)
        return nn.relu(x + shortcut)


class ResNet18(nn.Module):
    """The network, or those of its `UNITS` that are in `units`; its stages are `STAGES`."""

    outputs: int
    train_bn: Collection[str] = frozenset()
    dtype: Any = jnp.float32
    units: Collection[str] = UNITS

    @nn.compact
    def __call__(self, x: Array, dropout: bool = False) -> tuple[Array, dict[str, Array]]:
        """What the last unit gives and the activation of each stage; `dropout` changes nothing here.

        Normalised images (batch, height, width, 3), or what the unit before the first gives, to float32 (batch,
        outputs), or what the last unit gives.
        """
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, train_bn=self.train_bn, dtype=self.dtype)
        block = partial(BasicBlock, conv=conv, norm=norm)
        stages = {}
        if "conv1" in self.units:
            stem = conv(64, kernel_size=7, stride=2, name="conv1")
            stages["conv1"] = stem(x)
            stages["bn1"] = norm(name="bn1")(x, stem)
            x = max_pool(nn.relu(stages["bn1"]))
        for i, features in enumerate((64, 128, 256, 512), start=1):
            name = f"layer{i}"
            blocks = (partial(block, features, min(i, 2)), partial(block, features, 1))
            x = Sequential(chosen(blocks, name, self.units), name=name)(x)
            stages[name] = x
        if "avgpool" in self.units:
            stages["avgpool"] = x = pool(x)
        if "fc" in self.units:
            stages["fc"] = x = Linear(self.outputs, name="fc")(x)
        return x, stages
