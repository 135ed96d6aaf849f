"""Coverage and width of a model's intervals on test, over its seeds."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from jaxage.metrics import AGE_BANDS
from jaxage.types import Json


class BandCoverage(TypedDict):
    """How often intervals held the true age in one band of true ages, and their mean width; None for no image."""

    name: str
    covered: float | None
    width: float | None


class IntervalSummary(TypedDict):
    """Means over seeds. `constant_width` is that of one width for all ages with the same coverage."""

    coverage: float
    covered: float
    width: float | None
    constant_width: float | None
    by_age: list[BandCoverage]


def summarize_intervals(reports: Sequence[Json]) -> IntervalSummary | None:
    """The mean of what test reports say of their intervals (see `jaxage.training.intervals.coverage_report`).

    Args:
        reports: `report["test"]` of each run of a model.

    Returns:
        None if a run has none, as those of earlier versions.
    """
    found = [report.get("intervals") for report in reports]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    bands: list[BandCoverage] = []
    for first, last in AGE_BANDS:
        same = [band for part in parts for band in part["by_age"] if band["first"] == first]
        covered, width = (_mean([band[name] for band in same]) for name in ("covered", "width"))
        bands.append({"name": f"{first}-{last}", "covered": covered, "width": width})
    return {
        "coverage": parts[0]["coverage"],
        "covered": float(np.mean([part["covered"] for part in parts])),
        "width": _mean([part["width"] for part in parts]),
        "constant_width": _mean([part["constant_width"] for part in parts]),
        "by_age": bands,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
