"""Errors by group of images: by age, by gender, and by whatever else the data tell."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int

from jaxage.data.records import Records
from jaxage.metrics import AGE_BANDS, clusters, interval
from jaxage.types import Mask, Years

FEWEST = 30
"""Images that a group needs to be called the worst."""

_RESAMPLES = 1000

Runs = Float[np.ndarray, "runs n"]
"""Predicted ages of n images in years, by one run or by several seeds."""


class GroupError(TypedDict):
    """Errors of one group of images in years, with 95 % intervals; None where they are undefined."""

    name: str
    n: int
    mae: float | None
    mae_ci95: list[float] | None
    bias: float | None
    bias_ci95: list[float] | None


class WorstGroup(GroupError):
    """The group with the largest error of one grouping."""

    by: str


GroupErrors = dict[str, list[GroupError]]
"""The errors of each group, by what they are grouped by: "age", "gender" and the names of `Records.labels`."""


def age_masks(age: Years, bands: Sequence[tuple[int, int]] = AGE_BANDS) -> dict[str, Mask]:
    """Which images are in each band of true age. A band holds first <= age < last + 1.

    Args:
        age: True ages in years.
        bands: First and last whole year of each band.
    """
    return {f"{first}-{last}": (age >= first) & (age < last + 1) for first, last in bands}


def end_masks(age: Years) -> dict[str, Mask]:
    """The young, the middle and the old: what most face datasets have few of, many of, and few of."""
    return {"under 18": age < 18, "18-70": (age >= 18) & (age < 71), "over 70": age >= 71}


def group_masks(records: Records) -> dict[str, dict[str, Mask]]:
    """Which images are in each group, by what they are grouped by. An image whose group is unknown is in none."""
    masks = {"age": age_masks(records.age)}
    for by, column in {"gender": records.gender, **records.labels}.items():
        names = sorted(set(column.tolist()) - {""})
        if names:
            masks[by] = {name: column == name for name in names}
    return masks


def group_errors(predictions: Runs, records: Records) -> GroupErrors:
    """The errors of each group in `group_masks`; see `errors_of`."""
    return {by: errors_of(predictions, records, masks) for by, masks in group_masks(records).items()}


def errors_of(predictions: Runs, records: Records, masks: Mapping[str, Mask]) -> list[GroupError]:
    """Mean absolute error and bias (mean of prediction - age) of groups of images.

    Args:
        predictions: Of one run or several; the errors are means over runs.
        records: The images: their ages and people.
        masks: The images of each group, by its name.

    Returns:
        The errors with 95 % intervals from 1,000 resamples of people. The errors of a
        group without images are None, and so are the intervals of a group that shows one person.
    """
    difference = predictions - records.age
    rows = np.stack([np.abs(difference).mean(0), difference.mean(0), np.ones(len(records))], 1)
    inside = np.stack(list(masks.values()), 1)
    cluster = clusters(records.identity)
    table = (inside[:, :, None] * rows[:, None]).reshape(len(records), -1)
    sums = _resampled_sums(table, cluster).reshape(-1, len(masks), 3)
    people = [len(np.unique(cluster[mask])) for mask in masks.values()]
    return [
        _error(name, rows[mask], sums[:, column], people[column]) for column, (name, mask) in enumerate(masks.items())
    ]


def worst_groups(errors: Mapping[str, Sequence[GroupError]]) -> list[WorstGroup]:
    """For each grouping the group with the largest MAE, of those with at least 30 images; none if there are not two."""
    worst: list[WorstGroup] = []
    for by, groups in errors.items():
        known = [group for group in groups if group["n"] >= FEWEST and group["mae"] is not None]
        if len(known) > 1:
            worst.append({**max(known, key=lambda group: group["mae"] or 0), "by": by})
    return sorted(worst, key=lambda group: -(group["mae"] or 0))


def groups_table(errors: Mapping[str, Sequence[GroupError]]) -> str:
    """A table for the screen: a line for each group that has an image."""
    rows = [(f"{by} {group['name']}", group) for by, groups in errors.items() for group in groups if group["n"]]
    width = max([len(title) for title, _ in rows] + [12])
    lines = [f"{'':<{width}}{'n':>7}{'MAE, years':>20}{'bias, years':>23}"]
    for title, group in rows:
        mae = with_interval(group["mae"], group["mae_ci95"])
        bias = with_interval(group["bias"], group["bias_ci95"], "+")
        lines.append(f"{title:<{width}}{group['n']:>7}{mae:>20}{bias:>23}")
    return "\n".join(lines)


def worst_line(worst: Sequence[WorstGroup]) -> str:
    """The worst group of each grouping in words: "age 75-100: MAE 7.9 [7.2, 8.6], bias -5.1; gender male: ..."."""
    return "; ".join(
        f"{group['by']} {group['name']}: MAE {with_interval(group['mae'], group['mae_ci95'])}, "
        f"bias {with_interval(group['bias'], group['bias_ci95'], '+')}"
        for group in worst
    )


def with_interval(value: float | None, ends: Sequence[float] | None, sign: str = "") -> str:
    """A number of years and its interval: "7.9 [7.2, 8.6]"."""
    if value is None:
        return "-"
    return f"{value:{sign}.1f}" + ("" if ends is None else f" [{ends[0]:{sign}.1f}, {ends[1]:{sign}.1f}]")


def _resampled_sums(
    table: Float[np.ndarray, "n columns"], cluster: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "resamples columns"]:
    """The sum of each column after as many people as there are were drawn with replacement."""
    people = int(cluster.max()) + 1
    sums = np.stack([np.bincount(cluster, column, people) for column in table.T], 1)
    rng = np.random.default_rng(0)
    drawn = (np.bincount(rng.integers(0, people, people), minlength=people) for _ in range(_RESAMPLES))
    return np.stack([counts @ sums for counts in drawn])


def _error(
    name: str, rows: Float[np.ndarray, "rows 3"], sums: Float[np.ndarray, "resamples 3"], people: int
) -> GroupError:
    if not len(rows):
        return {"name": name, "n": 0, "mae": None, "mae_ci95": None, "bias": None, "bias_ci95": None}
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[:, :2] / sums[:, 2:]
    mae, bias = rows[:, :2].mean(0).tolist()
    mae_ends, bias_ends = (interval(column) if people > 1 else None for column in means.T)
    return {"name": name, "n": len(rows), "mae": mae, "mae_ci95": mae_ends, "bias": bias, "bias_ci95": bias_ends}
