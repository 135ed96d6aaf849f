"""The plots of a run as PNG files: predicted against true age, training curves, learning rates, ages of the faces."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from jaxage.metrics import headlines
from jaxage.report.style import BLUE, GRAY, LINE_COLORS, ORANGE, STYLE, log_tick_labels, save_picture
from jaxage.types import Json, Years

_DENSITY = LinearSegmentedColormap.from_list("density", ["#b9d9ee", BLUE, "#001f33"])
_MANY_POINTS = 2000

Steps = Float[np.ndarray, " steps"]
AnyYears = Float[np.ndarray, " _"]


def scatter(path: Path, prediction: Years, target: Years, scores: Mapping[str, float | None], title: str) -> None:
    """Plot predicted against true age, 1050 x 1050 pixels, with the line where both are equal.

    Up to 2,000 faces are drawn as points, more as hexagons colored by their number. Rows that are not finite are not
    drawn.

    Args:
        path: The PNG file to write.
        prediction: Predicted ages.
        target: True ages.
        scores: The headline metrics of `jaxage.metrics.METRICS` by name; they are printed in the plot.
        title: The title of the plot.

    Raises:
        ValueError: If the two columns are not 1-d or not of one length.
    """
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    if prediction.ndim != 1 or prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape}, target {target.shape}: two columns of one length are needed")
    finite = np.isfinite(prediction) & np.isfinite(target)
    prediction, target = prediction[finite], target[finite]
    high = _oldest(prediction, target)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 7), layout="constrained")
        axes = figure.subplots()
        if len(target) > _MANY_POINTS:
            hexagons = axes.hexbin(
                target, prediction, gridsize=55, extent=(0, high, 0, high), bins="log", mincnt=1, cmap=_DENSITY
            )
            scale = axes.inset_axes((0.6, 0.11, 0.36, 0.025))
            figure.colorbar(
                hexagons, scale, orientation="horizontal", format=StrMethodFormatter("{x:,.0f}"), label="faces"
            )
        else:
            alpha = float(np.clip(30 / max(len(target), 1) ** 0.6, 0.3, 0.9))
            axes.scatter(target, prediction, s=32, color=BLUE, alpha=alpha, linewidths=0)
        axes.plot([0, high], [0, high], color=ORANGE, linewidth=1.8, label="prediction = age")
        _print_scores(axes, scores, len(target))
        limits = (-0.02 * high, 1.02 * high)
        axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="true age (years)", ylabel="predicted age (years)")
        axes.set_title(textwrap.fill(title, 50))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.15 if len(target) > _MANY_POINTS else 0.02))
        save_picture(path, figure)


def curves(path: Path, history: Sequence[Json], best_epoch: int) -> None:
    """Plot the training over the epochs in four panels, 1800 x 1200 pixels; the best epoch is marked.

    The panels are training loss, headline metrics in years, the other headline metrics, and learning rate.

    Args:
        path: The PNG file to write.
        history: For each epoch `epoch`, `train_loss`, `learning_rate`, and in `validation` the metrics by name. None
            and NaN leave gaps.
        best_epoch: The epoch to mark.

    Raises:
        ValueError: If `best_epoch` is not in the history.
    """
    epochs = [row["epoch"] for row in history]
    if best_epoch not in epochs:
        raise ValueError(f"best epoch {best_epoch} is not among the epochs of the history: {epochs or 'none'}")
    best = history[epochs.index(best_epoch)]["validation"]
    shown = [(name, metric) for name, metric in headlines().items() if name in best]
    values = {name: [row["validation"].get(name) for row in history] for name, _ in shown}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 8), layout="constrained")
        text = ", ".join(metric.sentence(best[name]) for name, metric in shown)
        figure.suptitle(f"best epoch {best_epoch} (dotted): {text}", x=0.012, ha="left")
        loss, error, other, rate = figure.subplots(2, 2, sharex=True).flat
        for axes, unit in ((error, "years"), (other, "")):
            lines = {metric.title: values[name] for name, metric in shown if metric.unit == unit}
            title = f"validation {', '.join(lines)}{f' ({unit})' if unit else ''}"
            _panel(axes, title, epochs, lines, best_epoch)
        _panel(loss, "training loss", epochs, {"": [row["train_loss"] for row in history]}, best_epoch)
        _panel(rate, "learning rate", epochs, {"": [row["learning_rate"] for row in history]}, best_epoch)
        rate.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        for axes in (other, rate):
            axes.set_xlabel("epoch")
        save_picture(path, figure)


def rates(path: Path, rate: Steps, loss: Steps, smooth: Steps, suggestion: float | None) -> None:
    """Plot the loss of a learning-rate range test over the learning rate.

    Args:
        path: The PNG file to write.
        rate: The learning rate of each step.
        loss: The loss of each step.
        smooth: The smoothed loss of each step.
        suggestion: The learning rate to mark, if any.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(rate, loss, color="#b9d9ee", linewidth=1.2, label="loss of the batch")
        axes.semilogx(rate, smooth, color=BLUE, label="smoothed")
        if suggestion is not None:
            axes.axvline(suggestion, color=ORANGE, linestyle=":", label=f"suggested: {suggestion:.1e}")
        axes.set_ylim(0.95 * np.min(smooth), 1.1 * np.max(smooth))
        axes.set(xlabel="learning rate", ylabel="training loss")
        axes.set_title("Learning-rate range test")
        axes.xaxis.set_major_formatter(log_tick_labels())
        axes.legend(loc="lower left")
        save_picture(path, figure)


def age_histograms(path: Path, ages: Mapping[str, AnyYears]) -> None:
    """Plot the number of faces by whole years of age, one panel for each split; 1200 x 1200 pixels.

    Args:
        path: The PNG file to write.
        ages: The ages of each split, by its name. The median is marked.

    Raises:
        ValueError: If a split is empty.
    """
    if empty := [name for name, years in ages.items() if not len(years)]:
        raise ValueError(f"no ages in {', '.join(empty)}")
    high = _oldest(*ages.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 8), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(ages), 1, sharex=True))
        for axes, (name, years) in zip(panels, ages.items(), strict=True):
            axes.hist(np.floor(years), bins=np.arange(high + 2) - 0.5, color=BLUE)
            median = float(np.median(years))
            axes.axvline(median, color=ORANGE, linewidth=1.8)
            axes.set_title(f"{name}: {len(years):,} faces, median {median:.0f} years")
            axes.set_ylabel("faces")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.grid(axis="x", visible=False)
        panels[-1].set_xlabel("age (years)")
        panels[-1].set_xlim(-1, high + 1)
        save_picture(path, figure)


def _oldest(*columns: AnyYears) -> float:
    """The upper end of an age axis: 100, or the next multiple of ten above all ages."""
    return float(max(100, np.ceil(np.concatenate(columns).max(initial=0) / 10) * 10))


def _print_scores(axes: Axes, scores: Mapping[str, float | None], count: int) -> None:
    shown = headlines()
    width = max(len(metric.title) for metric in shown.values())
    lines = [f"{m.title:<{width}} {m.format(scores.get(name))} {m.unit}" for name, m in shown.items()]
    axes.text(
        0.03,
        0.97,
        "\n".join([*lines, f"{'n':<{width}} {count:,}"]),
        transform=axes.transAxes,
        va="top",
        family="DejaVu Sans Mono",
        linespacing=1.4,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "#cccccc", "alpha": 0.92},
    )


def _panel(axes: Axes, title: str, epochs: list[int], lines: dict[str, list[float | None]], best_epoch: int) -> None:
    axes.set_title(title)
    axes.axvline(best_epoch, color=GRAY, linewidth=1.6, linestyle=":", zorder=1)
    for place, (label, values) in enumerate(lines.items()):
        numbers = np.array([np.nan if value is None else value for value in values], np.float64)
        color, marker = LINE_COLORS[place % len(LINE_COLORS)], "o" if len(epochs) <= 40 else ""
        axes.plot(epochs, numbers, "--" if place % 2 else "-", marker=marker, color=color, label=label)
        best = numbers[epochs.index(best_epoch)]
        axes.plot(best_epoch, best, "o", color=color, markersize=11, markeredgecolor="white", zorder=3)
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines[1:]):
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", color=GRAY)
        axes.set_yticks([])
    if len(lines) > 1:
        axes.legend(loc="lower right")
    margin = max(0.5, 0.02 * len(epochs))
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
