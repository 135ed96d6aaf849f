"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), as torchvision builds it."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models.layers import BatchNorm, Conv, FeatureMap, Linear, Sequential, pool
from jaxage.types import Images, Logits

STAGES = (*(f"features.{i}" for i in range(19)), "avgpool", "classifier")

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
        return nn.relu6(self.norm(name="1")(self.conv(name="0")(x)))


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
    """The trunk, `features.0` to `features.18`."""

    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> tuple[FeatureMap, ...]:
        """The activations of all nineteen modules."""
        unit = partial(ConvNormReLU6, norm=self.norm)
        block = partial(InvertedResidual, conv=self.conv, norm=self.norm)
        modules: list[Callable[..., nn.Module]] = [partial(unit, partial(self.conv, 32, stride=2))]
        for expansion, features, repeats, stride in _EXPANSION_CHANNELS_REPEATS_STRIDE:
            strides = (stride, *(1,) * (repeats - 1))
            modules += [partial(block, features, s, expansion) for s in strides]
        modules.append(partial(unit, partial(self.conv, 1280, kernel_size=1)))
        maps = []
        for i, module in enumerate(modules):
            x = module(name=str(i))(x)
            maps.append(x)
        return tuple(maps)


class MobileNetV2(nn.Module):
    """The network; its stages are `STAGES`."""

    outputs: int
    live: Collection[str] = frozenset()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images, dropout: bool = False) -> tuple[Logits, dict[str, Array]]:
        """Float32 (batch, outputs) and the activation of each stage; `dropout` (0.2) wants an rng of that name."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, live=self.live, dtype=self.dtype)
        maps = Features(conv, norm, name="features")(images)
        pooled = pool(maps[-1])
        dropped = nn.Dropout(0.2, deterministic=not dropout)(pooled)
        logits = Sequential((None, partial(Linear, self.outputs)), name="classifier")(dropped)
        stages: dict[str, Array] = {f"features.{i}": x for i, x in enumerate(maps)}
        return logits, stages | {"avgpool": pooled, "classifier": logits}
