"""Types that several packages share. The tests check array shapes and dtypes at run time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

Arch = str
"""A key of `jaxage.models.registry.MODELS`."""

LossName = str
"""A key of `jaxage.losses.LOSSES`."""

RunPath = str | Path
"""The folder of a finished run or its `model/` folder, or `hf://owner/name@revision` on the Hugging Face Hub."""

Dtype = Literal["float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16"]
FrozenBatchNorm = Literal["eval", "train"]
Split = Literal["train", "validation", "test"]
CacheFeatures = Literal["auto", "off", "device", "host", "disk"]
Solver = Literal["adamw", "ridge"]
SplitRule = Literal["random", "identity"]
SplitChoice = Literal["given", "random", "identity"]
FacesIn = Literal["auto", "crop", "photo"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

Images = Float[Array, "batch height width 3"]
"""Normalized RGB, ready for a network."""

RawImages = UInt8[Array, "batch height width 3"]
"""RGB as stored, 0-255."""


@runtime_checkable
class ShardedArray(Protocol):
    """Arrays in several memory maps, read as one (see `jaxage.data.shards`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> Any: ...  # noqa: D102

    @property
    def nbytes(self) -> int: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


StoredImages = UInt8[np.ndarray, "n size size 3"]
"""RGB as decoded, 0-255, in memory or in a memory map."""

DatasetImages = StoredImages | ShardedArray
"""All images of a dataset, in one memory map or in several."""

Items = Shaped[Array | np.ndarray, "n *item"] | ShardedArray
"""What is learned from: images, uint8 (n, height, width, 3), or cached features, (n, ...)."""

Ages = Float[Array, " batch"]
"""Years."""

RowWeights = Float[Array, " batch"]
"""How often each row counts: 0 for padding, 1 for a real row, a count in a bootstrap resample."""

Logits = Float[Array, "batch outputs"]
"""Output of the head, float32, before an objective turns it into an age."""

Probabilities = Float[Array, "n years"]
"""The probability of each whole year from 0 for n images; no columns if only an age is predicted."""

Years = Float[np.ndarray, " n"]
"""Ages of n images, true or predicted, in years."""

Rows = Int[np.ndarray, " rows"]
"""Indices of rows of a table or of a dataset's images."""

Mask = Bool[np.ndarray, " n"]
"""Which of n rows are meant."""

Params = dict[str, Any]
"""A nested dict of arrays whose keys, joined by dots, are torchvision's module names."""

Variables = dict[str, Params]
"""`{"params": Params, "batch_stats": Params}`, as Flax Linen keeps them."""

Json = dict[str, Any]
"""A JSON object: reports, manifests, histories."""

Log = Callable[[str], None]
"""Where lines for the user go: `print`, unless the caller wants them elsewhere."""


class InputContract(NamedTuple):
    """What a network's weights expect of an image.

    mean, std: of each channel of RGB in 0-1: the network takes `(x - mean) / std`.
    interpolation: how the image is resized (Pillow's filters, antialiased).
    crop: the share of the resized image's shorter side that the central square keeps; 1 keeps all of it.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    crop: float = 1.0


class Predictions(NamedTuple):
    """Ages of n images in years, at least 0, and the distributions that they are the means of, if the loss has them."""

    age: Years
    probabilities: Float[np.ndarray, "n years"]


class Framing(NamedTuple):
    """Where a face sits in the square that a network takes, in shares of the square's side.

    x, y: the mean point of the five landmarks (eyes, nose, corners of the mouth), from the upper left corner.
    scale: the height of the face's box.
    """

    x: float
    y: float
    scale: float


class UserError(ValueError):
    """An error that the user can fix; the message says what is wrong and what to do."""


class WeightsUnavailableError(RuntimeError):
    """Weights that cannot be downloaded; the message says why, and where to save the file by hand."""


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Stopped(RuntimeError):
    """A signal ended the run after its state was saved."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
