"""Names and array types that several files share; the tests check the shapes at run time."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

Arch = Literal["resnet18", "mobilenet_v2"]
Dtype = Literal["float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16"]
LossName = Literal["l1", "mse", "huber", "dldl"]
LossChoice = Literal["auto", "l1", "mse", "huber", "dldl"]
FrozenBatchNorm = Literal["eval", "train"]
Split = Literal["train", "validation", "test"]
CacheFeatures = Literal["auto", "off", "device", "host", "disk"]
Solver = Literal["adamw", "ridge"]
SplitRule = Literal["random", "identity"]
SplitChoice = Literal["given", "random", "identity"]

Images = Float[Array, "batch height width 3"]
"""Normalised RGB, ready for a network."""

RawImages = UInt8[Array, "batch height width 3"]
"""RGB as stored, 0-255."""

Items = Shaped[Array | np.ndarray, "n *item"]
"""What is learned from: images, uint8 (n, height, width, 3), or features of a frozen prefix, (n, ...)."""

Ages = Float[Array, " batch"]
"""Years."""

Weights = Float[Array, " batch"]
"""How often each row counts: 0 for padding, 1 for a real row, a count in a bootstrap resample."""

Logits = Float[Array, "batch outputs"]
"""What the head gives, float32, before an objective turns it into an age."""

Params = dict[str, Any]
"""A nested dict of arrays whose keys, joined by dots, are torchvision's module names."""

Variables = dict[str, Params]
"""`{"params": Params, "batch_stats": Params}`, as Flax Linen keeps them."""

Log = Callable[[str], None]
"""Where lines for the user go: `print`, unless the caller wants them elsewhere."""


class UserError(ValueError):
    """Something that whoever runs jaxage can mend; the message says what is wrong and what to do."""
