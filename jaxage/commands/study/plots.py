"""The pictures of a study: curves, differences, errors by age and calibration, a panel or a line for each model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from jaxage.report.style import BLUE, GRAY, ORANGE, STYLE, powers, save_picture

_COLUMNS = 2
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#6b6b6b")
_MARKERS = "os^DvPX*"


def curve_panels(path: Path, histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> None:
    """Validation MAE over the epochs, a panel for each model and a line for each of its seeds.

    `histories` has for each model the lines of every seed, with `epoch` and `validation`; heads in closed form, whose
    lines are strengths, have "strength" in place of an epoch's losses and are drawn over the strength.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(histories), height=2.7)
        for axes, (name, runs) in zip(panels, histories.items(), strict=True):
            for seed, lines in enumerate(runs):
                places = [line.get("strength", line["epoch"]) for line in lines]
                values = [_or_nan(line["validation"]["mae"]) for line in lines]
                axes.plot(places, values, marker="o" if len(lines) < 15 else "", color=_LINES[seed % len(_LINES)])
            if "strength" in runs[0][0]:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(powers())
                axes.set_xlabel("ridge strength")
            else:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
                axes.set_xlabel("epoch")
            axes.set_ylabel("MAE (years)")
            axes.set_title(name, fontsize=12)
        save_picture(path, figure)


def differences(path: Path, rows: Sequence[tuple[str, Mapping[str, Any]]], metrics: Mapping[str, str]) -> None:
    """Paired differences with 95 % intervals, a line for each of `rows`, a panel for each of `metrics` (key: title).

    A row is a title and, for each metric, `difference` and `ci95`. Intervals that hold 0 are gray; where they do not,
    blue is better and orange worse (MAE is better when it falls). The axes are linear near 0 and logarithmic beyond, so
    that small differences are seen beside large ones.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.4 + 0.55 * len(rows)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
        for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
            for place, (_, measured) in enumerate(rows):
                _whisker(axes, place, measured[metric], falls=metric in ("mae", "rmse"))
            axes.axvline(0, color=GRAY, linewidth=1.4, linestyle=":")
            axes.set_title(title)
            linear = 0.1 if metric in ("mae", "rmse") else 0.01
            axes.set_xscale("symlog", linthresh=linear)
            axes.set_xticks([sign * linear * power for power in (10, 1) for sign in (-1, 1)] + [0])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}" if x else "0"))
            ends = [end for _, measured in rows for end in measured[metric]["ci95"] or ()]
            axes.set_xlim(min(1.6 * min(ends, default=0), -2 * linear), max(1.6 * max(ends, default=0), 2 * linear))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(rows)), [name for name, _ in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        save_picture(path, figure)


def band_lines(path: Path, models: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """MAE and bias by true age, a line for each model; `models` has for each its bands with `name`, `mae`, `bias`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 5.4 + 0.3 * -(-len(models) // 2)), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, key, title in zip(panels, ("mae", "bias"), ("MAE (years)", "bias (years)"), strict=True):
            for place, (name, bands) in enumerate(models.items()):
                values = [_or_nan(band[key]) for band in bands]
                style = {"color": _LINES[place % len(_LINES)], "marker": _MARKERS[place % len(_MARKERS)]}
                axes.plot(range(len(bands)), values, linewidth=1.8, label=name, **style)
            names = [band["name"] for band in next(iter(models.values()))]
            axes.set_xticks(range(len(names)), names)
            axes.set_title(title)
            axes.set_xlabel("true age")
        panels[1].axhline(0, color=GRAY, linewidth=1.4, linestyle=":")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        save_picture(path, figure)


def calibration_panels(path: Path, models: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Mean true against mean predicted age of each tenth of the test by predicted age, a panel for each model."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(models), height=4.2)
        for axes, (name, tenths) in zip(panels, models.items(), strict=True):
            predicted, true = ([part[key] for part in tenths] for key in ("predicted", "true"))
            low, high = min(0.0, *predicted, *true), max(*predicted, *true) + 5
            axes.plot([low, high], [low, high], color=ORANGE, linewidth=1.6)
            axes.plot(predicted, true, "o-", color=BLUE)
            axes.set(xlabel="mean predicted age", ylabel="mean true age", xlim=(low, high), ylim=(low, high))
            axes.set_aspect("equal")
            axes.set_title(name, fontsize=12)
        save_picture(path, figure)


def _grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    rows = -(-count // _COLUMNS)
    figure = Figure(figsize=(12, 0.4 + height * rows), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(rows, _COLUMNS, squeeze=False)).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _whisker(axes: Axes, place: int, measured: Mapping[str, Any], *, falls: bool) -> None:
    value, ends = measured["difference"], measured["ci95"]
    if value is None or ends is None:
        return
    clear = ends[0] > 0 or ends[1] < 0
    better = (value < 0) == falls
    color = (BLUE if better else ORANGE) if clear else GRAY
    axes.plot(ends, [place, place], color=color, linewidth=2.6)
    axes.plot(value, place, "o", color=color, markersize=8)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
