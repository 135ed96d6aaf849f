"""ResNets (He et al. 2015, arXiv:1512.03385), as torchvision builds them."""

from collections.abc import Collection
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxage.models.layers import BatchNorm, Conv, Linear, Sequential, conv_norm, keep_units
from jaxage.models.network import Network
from jaxage.models.ops.conv import ConvForm, FeatureMap
from jaxage.models.ops.pool import average_pool, max_pool
from jaxage.models.ops.relu import RELU, relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions of `features` channels, and a shortcut."""

    features: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Divide height and width by `stride`."""
        conv, norm = partial(self.conv, self.features), partial(self.norm, self.features)
        y = conv_norm(conv(stride=self.stride, name="conv1"), norm(name="bn1"), x, ceiling=RELU)
        y = conv_norm(conv(name="conv2"), norm(name="bn2"), y)
        return relu(y + _shortcut(conv, norm, self.features, self.stride, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions of `features`, `features` and `4 * features` channels, and a shortcut.

    The 3x3 convolution has the stride: torchvision's "v1.5", and not the paper's, which gives it to the first.
    """

    features: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Divide height and width by `stride`."""
        conv, norm = partial(self.conv, self.features), partial(self.norm, self.features)
        y = conv_norm(conv(kernel_size=1, name="conv1"), norm(name="bn1"), x, ceiling=RELU)
        y = conv_norm(conv(stride=self.stride, name="conv2"), norm(name="bn2"), y, ceiling=RELU)
        outputs = 4 * self.features
        conv, norm = partial(self.conv, outputs), partial(self.norm, outputs)
        y = conv_norm(conv(kernel_size=1, name="conv3"), norm(name="bn3"), y)
        return relu(y + _shortcut(conv, norm, outputs, self.stride, x))


def _shortcut(conv: Any, norm: Any, outputs: int, stride: int, x: FeatureMap) -> FeatureMap:
    """The block's input, projected by a 1x1 convolution ("downsample") if the block changes its shape."""
    if stride == 1 and x.shape[-1] == outputs:
        return x
    return Sequential((partial(conv, kernel_size=1, stride=stride), norm), name="downsample")(x)


class ResNet(nn.Module):
    """A ResNet, or those of its units that are in `units`; see `jaxage.models.network.Network.module`.

    Attributes:
        block: The kind of block.
        repeats: The number of blocks in each of `layer1` to `layer4`.
    """

    block: type[nn.Module]
    repeats: tuple[int, ...]
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
            dropout: Changes nothing: ResNets have none.

        Returns:
            What the last unit gives, for the head float32 (batch, outputs), and the activation of each stage, for
            `bn1` before the ReLU.
        """
        conv = partial(Conv, dtype=self.dtype, conv_form=self.conv_form)
        norm = partial(BatchNorm, train_bn=self.train_bn, dtype=self.dtype, conv_form=self.conv_form)
        stages = {}
        if "conv1" in self.units:
            stem = conv(64, kernel_size=7, stride=2, name="conv1")
            stages["conv1"] = stem(x)
            stages["bn1"] = conv_norm(stem, norm(64, name="bn1"), x)
            x = relu(max_pool(stages["bn1"], self.conv_form))  # as after the ReLU, on a map of a quarter
        for i, repeats in enumerate(self.repeats):
            name, strides = f"layer{i + 1}", (1 if i == 0 else 2, *(1,) * (repeats - 1))
            blocks = [partial(self.block, 64 * 2**i, stride, conv, norm) for stride in strides]
            stages[name] = x = Sequential(keep_units(blocks, name, self.units), name=name)(x)
        if "avgpool" in self.units:
            stages["avgpool"] = x = average_pool(x)
        if "fc" in self.units:
            stages["fc"] = x = Linear(self.outputs, name="fc")(x)
        return x, stages


def _resnet(title: str, block: type[nn.Module], repeats: tuple[int, ...]) -> Network:
    """The unit `conv1` reaches to the pooling after it."""
    layers = [f"layer{i}" for i in range(1, 5)]
    blocks = [f"{layer}.{j}" for layer, count in zip(layers, repeats, strict=True) for j in range(count)]
    return Network(
        module=partial(ResNet, block, repeats),
        title=title,
        paper="He et al. 2015, arXiv:1512.03385",
        stages=("conv1", "bn1", *layers, "avgpool", "fc"),
        units=("conv1", *blocks, "avgpool", "fc"),
        head="fc",
    )


NETWORKS = {
    "resnet18": _resnet("ResNet18", BasicBlock, (2, 2, 2, 2)),
    "resnet34": _resnet("ResNet34", BasicBlock, (3, 4, 6, 3)),
    "resnet50": _resnet("ResNet50", Bottleneck, (3, 4, 6, 3)),
}
