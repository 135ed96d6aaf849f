"""What the tests of pictures look at."""

from pathlib import Path

import numpy as np
from PIL import Image


def read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def ink(image: Image.Image) -> float:
    """The share of pixels that are not white."""
    return float((np.asarray(image) != 255).any(axis=2).mean())
