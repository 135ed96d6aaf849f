"""A network that compiles in a second, with a frozen part, BatchNorm and a head, as an entry of `MODELS`."""

import dataclasses
from collections.abc import Collection
from functools import partial
from typing import Any
from unittest import mock

import flax.linen as nn

from jaxage.models.layers import BatchNorm, Conv, Linear, conv_norm
from jaxage.models.network import Network
from jaxage.models.ops.conv import ConvForm
from jaxage.models.ops.pool import average_pool
from jaxage.models.registry import MODELS, Model, create_model
from jaxage.models.resnet import BasicBlock, ResNet


class _Tiny(nn.Module):
    outputs: int
    train_bn: Collection[str]
    dtype: Any
    units: Collection[str]
    conv_form: ConvForm

    @nn.compact
    def __call__(self, x: Any, dropout: bool = False) -> Any:
        stages = {}
        for unit, features, norm in (("conv1", 4, "bn1"), ("layer4", 8, "bn4")):
            if unit in self.units:
                conv = Conv(features, stride=2, dtype=self.dtype, conv_form=self.conv_form, name=unit)
                bn = BatchNorm(features, self.train_bn, self.dtype, conv_form=self.conv_form, name=norm)
                stages[unit] = x = nn.relu(conv_norm(conv, bn, x))
        if "avgpool" in self.units:
            stages["avgpool"] = x = average_pool(x)
        if "fc" in self.units:
            stages["fc"] = x = Linear(self.outputs, name="fc")(x)
        return x, stages


UNITS = ("conv1", "layer4", "avgpool", "fc")
TINY = Network(_Tiny, "Tiny", "nowhere", stages=UNITS, units=UNITS, head="fc")


def tiny_model(outputs: int = 1) -> Model:
    """`conv1, bn1, layer4, bn4, fc`, under the name resnet18."""
    with mock.patch.dict(MODELS, {"resnet18": TINY}):
        return create_model("resnet18", outputs=outputs)


class _NarrowBlock(BasicBlock):
    """Of eight channels at most."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", min(self.features, 8))
        super().__post_init__()


_BLOCKS = ("conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "layer4.1", "avgpool", "fc")
NARROW_RESNET = dataclasses.replace(
    MODELS["resnet18"], module=partial(ResNet, _NarrowBlock, (1, 1, 1, 2)), units=_BLOCKS
)
"""ResNet18 with few blocks and channels."""
