"""A picture of which parts of a face made a network say older or younger."""

from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxage.report.style import BLUE, ORANGE, STYLE, picture_bytes
from jaxage.utils.files import write_bytes

_YOUNGER_OLDER = LinearSegmentedColormap.from_list("younger-older", [BLUE, "#f7f7f7", ORANGE])


def overlay(path: Path, image: UInt8[np.ndarray, "h w 3"], evidence: Float[np.ndarray, "y x"], title: str) -> None:
    """Write the picture of `overlay_png` to a file."""
    write_bytes(path, overlay_png(image, evidence, title))


def overlay_png(image: UInt8[np.ndarray, "h w 3"], evidence: Float[np.ndarray, "y x"], title: str) -> bytes:
    """Draw an image, and beside it the same image in gray with a map over it; a PNG file of 1200 x 720 pixels.

    Args:
        image: RGB, 0-255.
        evidence: The map, from `jaxage.commands.explain.age_map`. Values above 0 are orange (older), values below 0
            are blue (younger), 0 is transparent. The colors are scaled to the largest magnitude of this map.
        title: The title of the picture.
    """
    largest = float(np.abs(evidence).max()) or 1.0
    gray = image.mean(2)
    height, width = gray.shape
    strength = np.abs(evidence) / largest
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        figure.suptitle(title, x=0.012, ha="left")
        plain, shaded = figure.subplots(1, 2)
        plain.imshow(image)
        shaded.imshow(gray, cmap="gray", vmin=0, vmax=255)
        drawn = shaded.imshow(
            evidence,
            cmap=_YOUNGER_OLDER,
            vmin=-largest,
            vmax=largest,
            alpha=0.75 * np.sqrt(strength),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bilinear",
        )
        for axes in (plain, shaded):
            axes.set_axis_off()
        bar = figure.colorbar(drawn, ax=shaded, location="bottom", ticks=[-largest, 0, largest], shrink=0.8)
        bar.ax.set_xticklabels(["younger", "", "older"])
        return picture_bytes(figure)
