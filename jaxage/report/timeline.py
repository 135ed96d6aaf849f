"""A picture of what threads and device streams do over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxage.report.style import BLUE, GRAY, ORANGE, STYLE, save_picture

_COLORS = {"compute": BLUE, "host": GRAY, "wait": ORANGE}


def timeline(path: Path, lanes: Mapping[str, Sequence[tuple[float, float, str]]], title: str) -> None:
    """Draw a row of bars for each thread or stream, one below the other; 1800 pixels wide.

    Args:
        path: The PNG file to write.
        lanes: By name, the (start, duration, kind) of each bar, in milliseconds. The kind is "compute", "host" or
            "wait".
        title: The title of the picture.

    Raises:
        ValueError: If there is no lane.
    """
    if not lanes:
        raise ValueError("nothing was recorded")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 2.2 + 0.7 * len(lanes)), layout="constrained")
        axes = figure.subplots()
        for row, spans in enumerate(lanes.values()):
            for kind, color in _COLORS.items():
                bars = [(start, duration) for start, duration, its in spans if its == kind]
                axes.broken_barh(bars, (row - 0.4, 0.8), facecolors=color, linewidth=0)
        axes.set_yticks(range(len(lanes)), lanes)
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds")
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
        patches = [Patch(color=color, label=kind) for kind, color in _COLORS.items()]
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(0, -0.25 / (0.3 * len(lanes))), ncols=3)
        save_picture(path, figure)
