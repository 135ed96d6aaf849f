"""ResNet18 (He et al. 2015, arXiv:1512.03385), as torchvision builds it."""

from collections.abc import Collection
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxage.models.layers import BatchNorm, Conv, FeatureMap, Linear, Sequential, pool
from jaxage.types import Images, Logits

STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")


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
        x = self.conv(self.features, stride=self.stride, name="conv1")(x)
        x = nn.relu(self.norm(name="bn1")(x))
        x = self.conv(self.features, name="conv2")(x)
        x = self.norm(name="bn2")(x)
        if self.stride != 1 or shortcut.shape[-1] != self.features:
            projection = partial(self.conv, self.features, kernel_size=1, stride=self.stride)
            shortcut = Sequential((projection, self.norm), name="downsample")(shortcut)
        return nn.relu(x + shortcut)


class ResNet18(nn.Module):
    """The network; its stages are `STAGES`."""

    outputs: int
    live: Collection[str] = frozenset()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images, dropout: bool = False) -> tuple[Logits, dict[str, Array]]:
        """Float32 (batch, outputs) and the activation of each stage; `dropout` changes nothing here."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, live=self.live, dtype=self.dtype)
        block = partial(BasicBlock, conv=conv, norm=norm)
        stages = {}
        stages["conv1"] = conv(64, kernel_size=7, stride=2, name="conv1")(images)
        stages["bn1"] = norm(name="bn1")(stages["conv1"])
        x = _max_pool(nn.relu(stages["bn1"]))
        for i, features in enumerate((64, 128, 256, 512), start=1):
            blocks = (partial(block, features, min(i, 2)), partial(block, features, 1))
            stages[f"layer{i}"] = x = Sequential(blocks, name=f"layer{i}")(x)
        stages["avgpool"] = pool(x)
        stages["fc"] = logits = Linear(self.outputs, name="fc")(stages["avgpool"])
        return logits, stages


def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
