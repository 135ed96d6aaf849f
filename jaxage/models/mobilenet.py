"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), as torchvision builds it."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxage.models.layers import BatchNorm, Conv, Linear, Sequential, conv_norm, keep_units
from jaxage.models.network import Network
from jaxage.models.ops.conv import ConvForm, FeatureMap
from jaxage.models.ops.pool import average_pool
from jaxage.models.ops.relu import RELU6

_STAGES = (*(f"features.{i}" for i in range(19)), "avgpool", "classifier")

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
    """A convolution ("0"), its BatchNorm ("1") and ReLU6; `conv` and `norm` take a name and give the module."""

    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Run the three."""
        return conv_norm(self.conv(name="0"), self.norm(name="1"), x, ceiling=RELU6)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3) and project (1x1), with a shortcut where the shape stays."""

    features: int
    stride: int
    expansion: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Divide height and width by `stride`."""
        inputs = x.shape[-1]
        hidden = inputs * self.expansion
        unit = partial(ConvNormReLU6, norm=partial(self.norm, hidden))
        expand = (partial(unit, partial(self.conv, hidden, kernel_size=1)),) if self.expansion != 1 else ()
        filter_each = partial(unit, partial(self.conv, hidden, stride=self.stride, depthwise=True))
        project = (partial(self.conv, self.features, kernel_size=1), partial(self.norm, self.features))
        y = Sequential((*expand, filter_each, *project), name="conv")(x)
        return x + y if self.stride == 1 and inputs == self.features else y


class Features(nn.Module):
    """The trunk, `features.0` to `features.18`, or those of them that are in `units`."""

    conv: Any
    norm: Any
    units: Collection[str]

    @nn.compact
    def __call__(self, x: FeatureMap) -> tuple[FeatureMap, dict[str, Array]]:
        """Run the units; return what the last one gives, and the activations of all."""
        block = partial(InvertedResidual, conv=self.conv, norm=self.norm)
        modules: list[Callable[..., nn.Module]] = [
            partial(ConvNormReLU6, partial(self.conv, 32, stride=2), partial(self.norm, 32))
        ]
        for expansion, features, repeats, stride in _EXPANSION_CHANNELS_REPEATS_STRIDE:
            strides = (stride, *(1,) * (repeats - 1))
            modules += [partial(block, features, s, expansion) for s in strides]
        modules.append(partial(ConvNormReLU6, partial(self.conv, 1280, kernel_size=1), partial(self.norm, 1280)))
        maps = {}
        for i, module in enumerate(keep_units(modules, "features", self.units)):
            if module is not None:
                maps[f"features.{i}"] = x = module(name=str(i))(x)
        return x, maps


class MobileNetV2(nn.Module):
    """The network, or those of its units that are in `units`; see `jaxage.models.network.Network.module`."""

    outputs: int
    train_bn: Collection[str]
    dtype: Any
    units: Collection[str]
    conv_form: ConvForm

    @nn.compact
    def __call__(self, x: Array, dropout: bool = False) -> tuple[Array, dict[str, Array]]:
        """Run the units.

        Args:
            x: Normalized images (batch, height, width, 3), or what the unit before the first one gives.
            dropout: Whether to drop a fifth of the head's inputs; needs an rng named "dropout".

        Returns:
            What the last unit gives, for the head float32 (batch, outputs), and the activation of each stage.
        """
        stages: dict[str, Array] = {}
        if any(unit.startswith("features") for unit in self.units):
            conv = partial(Conv, dtype=self.dtype, conv_form=self.conv_form)
            norm = partial(BatchNorm, train_bn=self.train_bn, dtype=self.dtype, conv_form=self.conv_form)
            x, stages = Features(conv, norm, self.units, name="features")(x)
        if "avgpool" in self.units:
            stages["avgpool"] = x = average_pool(x)
        if "classifier" in self.units:
            x = nn.Dropout(0.2, deterministic=not dropout)(x)
            stages["classifier"] = x = Sequential((None, partial(Linear, self.outputs)), name="classifier")(x)
        return x, stages


NETWORKS = {
    "mobilenet_v2": Network(
        module=MobileNetV2,
        title="MobileNetV2",
        paper="Sandler et al. 2018, arXiv:1801.04381",
        stages=_STAGES,
        units=_STAGES,
        head="classifier",
    )
}
