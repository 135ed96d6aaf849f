"""The plots of a study: curves, differences, errors by age and calibration, with one panel or line for each model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from jaxage.commands.study.intervals import IntervalSummary
from jaxage.commands.study.summary import CalibrationPoint, Difference
from jaxage.metrics import Metric, headlines
from jaxage.report.balance import Trade, draw_trade
from jaxage.report.groups import GroupError
from jaxage.report.style import BLUE, GRAY, LINE_COLORS, ORANGE, STYLE, log_tick_labels, save_picture
from jaxage.types import Json

_COLUMNS = 2
_MARKERS = "os^DvPX*"
_ZERO: Any = {"color": GRAY, "linewidth": 1.4, "linestyle": ":"}


def curve_panels(path: Path, histories: Mapping[str, Sequence[Sequence[Json]]]) -> None:
    """Plot the validation MAE over the epochs, one panel for each model and one line for each seed.

    Args:
        path: The PNG file to write.
        histories: For each model, the history lines of each seed. A history of ridge regression has `strength`; it is
            plotted over the strength instead of the epoch.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(histories), height=2.7)
        for axes, (name, runs) in zip(panels, histories.items(), strict=True):
            place = "strength" if "strength" in runs[0][0] else "epoch"
            for seed, lines in enumerate(runs):
                places = [line[place] for line in lines]
                values = [_or_nan(line["validation"]["mae"]) for line in lines]
                color = LINE_COLORS[seed % len(LINE_COLORS)]
                axes.plot(places, values, marker="o" if len(lines) < 15 else "", color=color)
            if place == "strength":
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(log_tick_labels())
                axes.set_xlabel("ridge strength")
            else:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
                axes.set_xlabel("epoch")
            axes.set_ylabel("MAE (years)")
            axes.set_title(name, fontsize=12)
        save_picture(path, figure)


def differences(path: Path, rows: Sequence[tuple[str, Mapping[str, Difference]]]) -> None:
    """Plot paired differences with 95 % intervals, one panel for each headline metric.

    Blue is better, orange is worse, gray means that the interval contains 0. The axes are linear near 0 and logarithmic
    beyond, so that small differences can be seen beside large ones.

    Args:
        path: The PNG file to write.
        rows: A title and the difference of each metric, by name.
    """
    metrics = headlines()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.4 + 0.55 * len(rows)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
        for axes, (name, metric) in zip(panels, metrics.items(), strict=True):
            _difference_panel(axes, metric, [measured[name] for _, measured in rows])
        panels[0].set_yticks(range(len(rows)), [title for title, _ in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        save_picture(path, figure)


def band_lines(path: Path, models: Mapping[str, Sequence[GroupError]]) -> None:
    """Plot MAE and bias by true age, one line for each model.

    Args:
        path: The PNG file to write.
        models: The errors of each age band, by model. All models have the same bands.
    """
    names = [band["name"] for band in next(iter(models.values()))]
    mae = {name: [band["mae"] for band in bands] for name, bands in models.items()}
    bias = {name: [band["bias"] for band in bands] for name, bands in models.items()}
    _lines_by_age(path, names, {"MAE (years)": mae, "bias (years)": bias}, lambda panels: panels[1].axhline(0, **_ZERO))


def interval_lines(path: Path, models: Mapping[str, IntervalSummary]) -> None:
    """Plot coverage and width of intervals by true age, one line for each model.

    Args:
        path: The PNG file to write.
        models: Their intervals. All models have the same bands and coverage.
    """
    first = next(iter(models.values()))
    names = [band["name"] for band in first["by_age"]]
    covered = {name: [band["covered"] for band in each["by_age"]] for name, each in models.items()}
    width = {name: [band["width"] for band in each["by_age"]] for name, each in models.items()}
    title = f"covered, of {first['coverage']:.0%} asked for"
    panels = {title: covered, "mean width (years)": width}
    _lines_by_age(path, names, panels, lambda panels: panels[0].axhline(first["coverage"], **_ZERO))


def _lines_by_age(
    path: Path,
    names: Sequence[str],
    panels_of: Mapping[str, Mapping[str, Sequence[float | None]]],
    mark: Callable[[Any], object],
) -> None:
    """Two panels with a line for each model over the bands of true age; `mark` adds to the panels."""
    models = next(iter(panels_of.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 5.4 + 0.3 * -(-len(models) // 2)), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, (title, lines) in zip(panels, panels_of.items(), strict=True):
            for place, (name, values) in enumerate(lines.items()):
                numbers = [_or_nan(value) for value in values]
                axes.plot(range(len(numbers)), numbers, linewidth=1.8, label=name, **_line_style(place))
            axes.set_xticks(range(len(names)), names)
            axes.set_title(title)
            axes.set_xlabel("true age")
        mark(panels)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        save_picture(path, figure)


def balance_panels(path: Path, models: Mapping[str, Sequence[Trade]]) -> None:
    """Plot the errors over the value of `--balance`, one panel for each model.

    Args:
        path: The PNG file to write.
        models: The points of each model.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(models), height=3.6)
        for axes, (name, points) in zip(panels, models.items(), strict=True):
            draw_trade(axes, points)
            axes.set_title(name, fontsize=12)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save_picture(path, figure)


def calibration_panels(path: Path, models: Mapping[str, Sequence[CalibrationPoint]]) -> None:
    """Plot the mean true age over the mean predicted age, one panel for each model.

    Args:
        path: The PNG file to write.
        models: For each model, one point for each tenth of the test faces by predicted age.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(models), height=4.2)
        for axes, (name, tenths) in zip(panels, models.items(), strict=True):
            predicted, true = [point["predicted"] for point in tenths], [point["true"] for point in tenths]
            high = max(*predicted, *true) + 5
            axes.plot([0, high], [0, high], color=ORANGE, linewidth=1.6)
            axes.plot(predicted, true, "o-", color=BLUE)
            axes.set(xlabel="mean predicted age", ylabel="mean true age", xlim=(0, high), ylim=(0, high))
            axes.set_aspect("equal")
            axes.set_title(name, fontsize=12)
        save_picture(path, figure)


def _grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    rows = -(-count // _COLUMNS)
    figure = Figure(figsize=(12, 0.4 + height * rows), layout="constrained")
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _line_style(place: int) -> dict[str, Any]:
    """A pair of color and marker that no other of 64 lines has."""
    turns = place // len(LINE_COLORS)
    return {"color": LINE_COLORS[place % len(LINE_COLORS)], "marker": _MARKERS[(place + turns) % len(_MARKERS)]}


def _difference_panel(axes: Axes, metric: Metric, rows: Sequence[Difference]) -> None:
    for place, measured in enumerate(rows):
        _whisker(axes, place, measured, metric.higher_is_better)
    axes.axvline(0, color=GRAY, linewidth=1.4, linestyle=":")
    axes.set_title(metric.heading)
    linear = 10.0 ** (1 - metric.digits)
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_xticks([sign * linear * power for power in (10, 1) for sign in (-1, 1)] + [0])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}" if x else "0"))
    ends = [end for measured in rows for end in measured["ci95"] or ()]
    axes.set_xlim(min(1.6 * min(ends, default=0), -2 * linear), max(1.6 * max(ends, default=0), 2 * linear))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", visible=False)


def _whisker(axes: Axes, place: int, measured: Difference, higher_is_better: bool) -> None:
    value, ends = measured["difference"], measured["ci95"]
    if value is None or ends is None:
        return
    clear = ends[0] > 0 or ends[1] < 0
    better = (value > 0) == higher_is_better
    color = (BLUE if better else ORANGE) if clear else GRAY
    axes.plot(ends, [place, place], color=color, linewidth=2.6)
    axes.plot(value, place, "o", color=color, markersize=8)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
