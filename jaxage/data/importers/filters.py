"""From all records of IMDB-WIKI to those worth training on, counting at each criterion."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxage.data.importers.imdb_wiki import AgeFormula, Metadata
from jaxage.data.splits import place
from jaxage.types import UserError


class Step(NamedTuple):
    """How many records a criterion kept and dropped, of those that the steps before it had kept."""

    step: str
    kept: int
    dropped: int


@dataclass(frozen=True)
class Criteria:
    """What a record must meet; the defaults are the 2024 report's."""

    min_face_score: float = 3.5
    """The detector's score must be above this."""

    min_age: int = 0
    """The youngest age kept, in years."""

    max_age: int = 100
    """The oldest age kept, in years."""

    age_formula: AgeFormula = "midyear"
    """midyear takes photos to be of 1 July; year is the difference of the years of photo and birth."""

    fraction: float = 0.5
    """The share kept of what meets all of the above, by a hash of the path."""

    def __post_init__(self) -> None:
        """Raise UserError naming the first field that cannot be used."""
        if not 0 < self.fraction <= 1:
            raise UserError(f"--fraction must lie in (0, 1], got {self.fraction}")
        if not math.isfinite(self.min_face_score):
            raise UserError(
                f"--min-face-score must be a finite number, got {self.min_face_score}: -1e9 keeps every face"
            )
        if not 0 <= self.min_age <= self.max_age:
            raise UserError(f"--min-age {self.min_age} and --max-age {self.max_age}: 0 <= MIN <= MAX is needed")


def funnel(metadata: Metadata, criteria: Criteria, seed: int) -> tuple[np.ndarray, list[Step]]:
    """The rows that meet all criteria, (n,) bool, and the count at each step.

    The steps in their order: `records` (all of them), `face` (one was found), `single face` (no second), `face score`,
    `age`, `fraction` (by a hash of path and `seed`).
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
        counts.append(Step(name, int(kept.sum()), dropped))
    return kept, counts


def funnel_table(steps: list[Step]) -> str:
    """A line for each step, for the screen."""
    lines = [f"{'':<12}{'kept':>10}{'dropped':>10}"]
    return "\n".join(lines + [f"{step:<12}{kept:>10,}{dropped:>10,}" for step, kept, dropped in steps])
