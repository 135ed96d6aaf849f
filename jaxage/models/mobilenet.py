"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), as torchvision builds it."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models.layers import BatchNorm, Conv, Linear, Sequential, chosen
from jaxage.models.ops.conv import FeatureMap
from jaxage.models.ops.pool import pool

STAGES = (*(f"features.{i}" for i in range(19)), "avgpool", "classifier")
UNITS = STAGES
"""The network as a chain: each unit takes what the one before it gives."""

_EXPANSION_CHANNELS_REPEATS_STRIDE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class ConvNormReLU6(nn.Module):
    """A convolution ("0"), its BatchNorm ("1") and ReLU6."""

    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """NHWC."""
        return nn.relu6(self.norm(name="1")(x, self.conv(name="0")))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3), project (1x1); with a shortcut where the shape stays."""

    features: int
    stride: int
    expansion: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """NHWC; height and width are divided by `stride`."""
        inputs = x.shape[-1]
        hidden = inputs * self.expansion
        unit = partial(ConvNormReLU6, norm=self.norm)
        expand = (partial(unit, partial(self.conv, hidden, kernel_size=1)),) if self.expansion != 1 else ()
        filter_each = partial(unit, partial(self.conv, hidden, stride=self.stride, depthwise=True))
        project = (partial(self.conv, self.features, kernel_size=1), self.norm)
        y = Sequential((*expand, filter_each, *project), name="conv")(x)
        return x + y if self.stride == 1 and inputs == self.features else y


class Features(nn.Module):
    """The trunk, `features.0` to `features.18`, or those of them that are in `units`."""

    conv: Any
    norm: Any
    units: Collection[str]

    @nn.compact
    def __call__(self, x: FeatureMap) -> tuple[FeatureMap, dict[str, Array]]:
        """What the last module gives, and the activations of all."""
        unit = partial(ConvNormReLU6, norm=self.norm)
        block = partial(InvertedResidual, conv=self.conv, norm=self.norm)
        modules: list[Callable[..., nn.Module]] = [partial(unit, partial(self.conv, 32, stride=2))]
        for expansion, features, repeats, stride in _EXPANSION_CHANNELS_REPEATS_STRIDE:
            strides = (stride, *(1,) * (repeats - 1))
            modules += [partial(block, features, s, expansion) for s in strides]
        modules.append(partial(unit, partial(self.conv, 1280, kernel_size=1)))
        maps = {}
        for i, module in enumerate(chosen(modules, "features", self.units)):
            if module is not None:
                maps[f"features.{i}"] = x = module(name=str(i))(x)
        return x, maps


class MobileNetV2(nn.Module):
    """The network, or those of its `UNITS` that are in `units`; its stages are `STAGES`."""

    outputs: int
    train_bn: Collection[str] = frozenset()
    dtype: Any = jnp.float32
    units: Collection[str] = UNITS

    @nn.compact
    def __call__(self, x: Array, dropout: bool = False) -> tuple[Array, dict[str, Array]]:
        """What the last unit gives and the activation of each stage; `dropout` (0.2) wants an rng of that name.

        Normalised images (batch, height, width, 3), or what the unit before the first gives, to float32 (batch,
        outputs), or what the last unit gives.
        """
        stages: dict[str, Array] = {}
        if any(unit.startswith("features") for unit in self.units):
            conv = partial(Conv, dtype=self.dtype)
            norm = partial(BatchNorm, train_bn=self.train_bn, dtype=self.dtype)
            x, stages = Features(conv, norm, self.units, name="features")(x)
        if "avgpool" in self.units:
            stages["avgpool"] = x = pool(x)
        if "classifier" in self.units:
            x = nn.Dropout(0.2, deterministic=not dropout)(x)
            stages["classifier"] = x = Sequential((None, partial(Linear, self.outputs)), name="classifier")(x)
        return x, stages
