"""Choose the records of IMDB-WIKI that are worth training on, and count what each criterion drops."""

import math
from dataclasses import dataclass

import numpy as np

from jaxage.data.importers.imdb_mat import AgeFormula, Metadata
from jaxage.data.importers.importer import FilterStep
from jaxage.data.splits import place
from jaxage.types import Mask, UserError


@dataclass(frozen=True)
class Criteria:
    """What a record must meet. The defaults are those of the 2024 report."""

    min_face_score: float = 3.5
    """The detector's score must be above this."""

    min_age: int = 0
    """The youngest age kept, in years."""

    max_age: int = 100
    """The oldest age kept, in years."""

    age_formula: AgeFormula = "midyear"
    """midyear assumes that photos were taken on 1 July; year is the difference of the years of photo and birth."""

    fraction: float = 0.5
    """The share to keep of the records that meet all other criteria, chosen by a hash of the path."""

    def __post_init__(self) -> None:
        """Raise UserError naming the first field that cannot be used."""
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction must lie in (0, 1], got {self.fraction}")
        if not math.isfinite(self.min_face_score):
            raise UserError(f"min_face_score must be a finite number, got {self.min_face_score}: -1e9 keeps every face")
        if not 0 <= self.min_age <= self.max_age:
            raise UserError(f"min_age {self.min_age} and max_age {self.max_age}: 0 <= min_age <= max_age is needed")


def filter_records(metadata: Metadata, criteria: Criteria, seed: int) -> tuple[Mask, list[FilterStep]]:
    """The rows that meet all criteria, and how many records each step keeps.

    The steps in their order: `records` (all of them), `face` (one was found), `single face` (no second), `face score`,
    `age`, `fraction`.

    Args:
        metadata: All records.
        criteria: What a record must meet.
        seed: Decides the fraction, by a hash of the path and the seed.
    """
    ages = metadata.ages(criteria.age_formula)
    steps = {
        "records": np.ones(len(metadata), bool),
        "face": np.isfinite(metadata.face_score),
        "single face": np.isnan(metadata.second_face_score),
        "face score": metadata.face_score > criteria.min_face_score,
        "age": (criteria.min_age <= ages) & (ages <= criteria.max_age),
        "fraction": np.asarray([place("fraction", path, seed) for path in metadata.path.tolist()]) < criteria.fraction,
    }
    kept, counts = np.ones(len(metadata), bool), []
    for name, passes in steps.items():
        dropped = int((kept & ~passes).sum())
        kept = kept & passes
        counts.append(FilterStep(name, int(kept.sum()), dropped))
    return kept, counts
