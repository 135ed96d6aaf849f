"""A plot of how often intervals held the true age, and how wide they were."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jaxage.report.style import BLUE, GRAY, ORANGE, STYLE, save_picture
from jaxage.types import Json


def interval_plot(path: Path, report: Json) -> None:
    """Plot coverage and width by true age in two panels, 1500 x 750 pixels.

    Args:
        path: The PNG file to write.
        report: From `jaxage.training.intervals.coverage_report`; `constant_width`, if it is there, is drawn as a line.
    """
    bands = report["by_age"]
    names = [f"{band['first']}-{band['last']}" for band in bands]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        covered, width = figure.subplots(1, 2)
        covered.bar(names, [band["covered"] for band in bands], color=BLUE, width=0.7)
        covered.axhline(report["coverage"], color=ORANGE, label=f"asked for: {report['coverage']:.0%}")
        covered.set(ylim=(0, 1), xlabel="true age (years)")
        covered.yaxis.set_major_formatter(PercentFormatter(1.0))
        covered.set_title(f"Intervals that hold the age: {report['covered']:.1%}")
        width.bar(names, [np.nan if band["width"] is None else band["width"] for band in bands], color=BLUE, width=0.7)
        if report.get("constant_width") is not None:
            label = f"one width for all: {report['constant_width']:.1f}"
            width.axhline(report["constant_width"], color=GRAY, linestyle="--", label=label)
        mean = "unbounded" if report["width"] is None else f"{report['width']:.1f} years"
        width.set(xlabel="true age (years)")
        width.set_title(f"Mean width: {mean}")
        for axes in (covered, width):
            axes.grid(axis="x", visible=False)
            axes.tick_params(axis="x", labelrotation=45)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower right", frameon=True, framealpha=0.9)
        save_picture(path, figure)
