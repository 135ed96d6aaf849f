"""The pictures of a run: predicted against true age, training curves, contact sheets of faces. All are PNG files."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL import Image, ImageDraw, ImageFont

from jaxage.report.style import BLUE, GRAY, ORANGE, STYLE, powers, save_picture, shown

_DENSITY = LinearSegmentedColormap.from_list("density", ["#b9d9ee", BLUE, "#001f33"])
_MANY_POINTS = 2000


def scatter(
    path: Path,
    prediction: np.ndarray,
    target: np.ndarray,
    plcc: float | None,
    srocc: float | None,
    title: str,
) -> None:
    """Predicted against true age in years, 1050 x 1050 pixels, with the line where they are equal.

    Up to 2,000 rows are drawn as points, more as hexagons colored by their number. `plcc` and `srocc` are printed in
    the picture, "undefined" if None or NaN, beside the mean absolute error. Rows that are not finite are not drawn.
    Raises ValueError unless `prediction` and `target` are (n,) of one length.
    """
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    if prediction.ndim != 1 or prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape}, target {target.shape}: two columns of one length are needed")
    finite = np.isfinite(prediction) & np.isfinite(target)
    prediction, target = prediction[finite], target[finite]
    error = np.abs(prediction - target).mean() if len(target) else None
    low, high = _limits(np.concatenate([prediction, target]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 7), layout="constrained")
        axes = figure.subplots()
        if len(target) > _MANY_POINTS:
            hexagons = axes.hexbin(
                target, prediction, gridsize=55, extent=(low, high, low, high), bins="log", mincnt=1, cmap=_DENSITY
            )
            scale = axes.inset_axes((0.6, 0.11, 0.36, 0.025))
            figure.colorbar(
                hexagons, scale, orientation="horizontal", format=StrMethodFormatter("{x:,.0f}"), label="faces"
            )
        else:
            alpha = float(np.clip(30 / max(len(target), 1) ** 0.6, 0.3, 0.9))
            axes.scatter(target, prediction, s=32, color=BLUE, alpha=alpha, linewidths=0)
        axes.plot([low, high], [low, high], color=ORANGE, linewidth=1.8, label="prediction = age")
        numbers = {"PLCC": shown(plcc, ".3f"), "SROCC": shown(srocc, ".3f"), "MAE": shown(error, ".2f", " years")}
        lines = [f"{name:<5} {value}" for name, value in numbers.items()] + [f"{'n':<5} {len(target):,}"]
        axes.text(
            0.03,
            0.97,
            "\n".join(lines),
            transform=axes.transAxes,
            va="top",
            family="DejaVu Sans Mono",
            linespacing=1.4,
            bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "#cccccc", "alpha": 0.92},
        )
        margin = 0.02 * (high - low)
        limits = (low - margin, high + margin)
        axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="true age (years)", ylabel="predicted age (years)")
        axes.set_title(textwrap.fill(title, 50))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.15 if len(target) > _MANY_POINTS else 0.02))
        save_picture(path, figure)


def curves(path: Path, history: Sequence[Mapping[str, Any]], best_epoch: int) -> None:
    """Four panels over the epochs: training loss, validation MAE, validation PLCC and SROCC, learning rate.

    `history` has for each epoch `epoch`, `train_loss`, `learning_rate` and `validation` with `mae` (years), `plcc`
    and `srocc`; None and NaN leave gaps. The best epoch is marked. 1800 x 1200 pixels. Raises ValueError for an
    empty history and for a `best_epoch` that is not in it.
    """
    epochs = [row["epoch"] for row in history]
    if best_epoch not in epochs:
        raise ValueError(f"best epoch {best_epoch} is not among the epochs of the history: {epochs or 'none'}")
    best = history[epochs.index(best_epoch)]["validation"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 8), layout="constrained")
        figure.suptitle(
            f"best epoch {best_epoch} (dotted): MAE {shown(best['mae'], '.2f', ' years')}, "
            f"PLCC {shown(best['plcc'], '.3f')}, SROCC {shown(best['srocc'], '.3f')}",
            x=0.012,
            ha="left",
        )
        loss, error, correlation, rate = figure.subplots(2, 2, sharex=True).flat
        validation = [row["validation"] for row in history]
        panels = {
            "training loss": (loss, {"": [row["train_loss"] for row in history]}),
            "validation MAE (years)": (error, {"": [row["mae"] for row in validation]}),
            "validation correlation": (
                correlation,
                {"PLCC": [row["plcc"] for row in validation], "SROCC": [row["srocc"] for row in validation]},
            ),
            "learning rate": (rate, {"": [row["learning_rate"] for row in history]}),
        }
        for title, (axes, lines) in panels.items():
            _panel(axes, title, epochs, lines, best_epoch)
        rate.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        for axes in (correlation, rate):
            axes.set_xlabel("epoch")
        save_picture(path, figure)


def rates(path: Path, rate: np.ndarray, loss: np.ndarray, smooth: np.ndarray, suggestion: float | None) -> None:
    """Loss, and loss smoothed, over the learning rate on a logarithmic axis; the suggested rate is marked."""
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
        axes.xaxis.set_major_formatter(powers())
        axes.legend(loc="lower left")
        save_picture(path, figure)


def age_histograms(path: Path, ages: Mapping[str, np.ndarray]) -> None:
    """How many faces there are of each year of age, a panel for each split, one above the other; 1200 x 1200 pixels.

    `ages` are years, drawn by whole years; the median is marked. Raises ValueError if a split is empty.
    """
    if empty := [name for name, years in ages.items() if not len(years)]:
        raise ValueError(f"no ages in {', '.join(empty)}")
    low, high = _limits(np.concatenate(list(ages.values())))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 8), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(ages), 1, sharex=True))
        for axes, (name, years) in zip(panels, ages.items(), strict=True):
            axes.hist(np.floor(years), bins=np.arange(low, high + 2) - 0.5, color=BLUE)
            median = float(np.median(years))
            axes.axvline(median, color=ORANGE, linewidth=1.8)
            axes.set_title(f"{name}: {len(years):,} faces, median {median:.0f} years")
            axes.set_ylabel("faces")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.grid(axis="x", visible=False)
        panels[-1].set_xlabel("age (years)")
        panels[-1].set_xlim(low - 1, high + 1)
        save_picture(path, figure)


def contact_sheet(path: Path, images: np.ndarray, captions: Sequence[str], columns: int) -> None:
    """Images (n, h, w, 3) uint8 in rows of `columns`, each above its caption.

    Small images are enlarged by a whole factor, to 128 pixels wide or more; captions that are too long are cut.
    Raises ValueError for another shape or dtype, no images, no columns, and unless each image has one caption.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not images.size:
        raise ValueError(f"images {images.shape} {images.dtype}: (n, h, w, 3) uint8 is needed, n 1 or more")
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} images, {len(captions)} captions: each image needs one")
    if columns < 1:
        raise ValueError(f"images in {columns} columns: 1 column or more is needed")
    count, height, width, _ = images.shape
    factor = -(-128 // width)
    height, width = factor * height, factor * width
    columns = min(columns, count)
    gap, text_height = 10, 26
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 17)
    cell_height, cell_width = height + text_height + gap, width + gap
    sheet = Image.new("RGB", (columns * cell_width + gap, -(-count // columns) * cell_height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = gap + index % columns * cell_width, gap + index // columns * cell_height
        sheet.paste(Image.fromarray(image.repeat(factor, 0).repeat(factor, 1)), (left, top))
        draw.text((left, top + height + 3), _cut(caption, font, width), fill="black", font=font)
    save_picture(path, sheet)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """0 to 100, or further by tens where values lie outside."""
    if not len(values):
        return 0.0, 100.0
    return min(0.0, np.floor(values.min() / 10) * 10), max(100.0, np.ceil(values.max() / 10) * 10)


def _panel(axes: Axes, title: str, epochs: list[int], lines: dict[str, list[float | None]], best_epoch: int) -> None:
    axes.set_title(title)
    axes.axvline(best_epoch, color=GRAY, linewidth=1.6, linestyle=":", zorder=1)
    for (label, values), color, style in zip(lines.items(), (BLUE, ORANGE), ("-", "--"), strict=False):
        numbers = np.array([np.nan if value is None else value for value in values], np.float64)
        axes.plot(epochs, numbers, style, marker="o" if len(epochs) <= 40 else "", color=color, label=label)
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


def _cut(caption: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    caption = " ".join(caption.split())
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"


def timeline(path: Path, lanes: Mapping[str, Sequence[tuple[float, float, str]]], title: str) -> None:
    """What each thread and stream does over time, one below the other; 1800 pixels wide.

    `lanes` has for each (start, duration, kind), in milliseconds; the kinds "compute", "wait" and "host" have a color.
    Raises ValueError if there is none.
    """
    if not lanes:
        raise ValueError("nothing was recorded")
    kinds = {"compute": BLUE, "host": GRAY, "wait": ORANGE}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 2.2 + 0.7 * len(lanes)), layout="constrained")
        axes = figure.subplots()
        for row, spans in enumerate(lanes.values()):
            for kind, color in kinds.items():
                bars = [(start, duration) for start, duration, its in spans if its == kind]
                axes.broken_barh(bars, (row - 0.4, 0.8), facecolors=color, linewidth=0)
        axes.set_yticks(range(len(lanes)), lanes)
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds")
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
        patches = [Patch(color=color, label=kind) for kind, color in kinds.items()]
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(0, -0.25 / (0.3 * len(lanes))), ncols=3)
        save_picture(path, figure)
