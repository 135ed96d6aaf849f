"""How faces are checked and divided. The docstrings of the fields are the help of the command line."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxage.data.decode import MIN_SIDE
from jaxage.types import SplitRule, UserError


@dataclass(frozen=True)
class PrepareOptions:
    """How faces of any source are checked and divided."""

    out: Path | None = None
    """The folder to make; without it, NAME-prepared beside the source."""

    split: SplitRule = "random"
    """How to divide images that come without splits; "identity" puts no person into two splits."""

    split_ratios: str = "0.6,0.2,0.2"
    """The shares of train, validation and test."""

    seed: int = 0
    """Decides the splits, and the fraction where the source has one."""

    min_side: int = MIN_SIDE
    """The smallest height and width of an image, in pixels."""

    faces: Literal["crop", "photo"] = "crop"
    """"photo" finds the face of each photo, which must show one person, and keeps it with the margin of IMDb-crop;
    "crop" keeps the files as they are."""

    max_bad: float = 0.01
    """The largest share of images that may be missing, broken or refused before preparing stops."""

    def __post_init__(self) -> None:
        """Raise UserError naming the first field that cannot be used."""
        self.ratios()
        if self.min_side < MIN_SIDE:
            raise UserError(f"min_side must be at least {MIN_SIDE}, got {self.min_side}")
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"max_bad must lie in [0, 1], got {self.max_bad}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}")

    def ratios(self) -> tuple[float, float, float]:
        """`split_ratios` as numbers. Raises UserError unless they are three positive ones that sum to 1."""
        try:
            train, validation, test = (float(part) for part in self.split_ratios.split(","))
        except ValueError:
            train = validation = test = math.nan
        if not (min(train, validation, test) > 0 and math.isclose(train + validation + test, 1)):
            raise UserError(
                f"split_ratios {self.split_ratios}: three positive numbers that sum to 1, such as 0.6,0.2,0.2"
            )
        return train, validation, test
