"""What all pictures share: colors, fonts, and how they are saved."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from jaxage.utils.files import write_bytes

BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#6b6b6b"
GREEN, PINK, SKY, YELLOW, BLACK = "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"
LINE_COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, BLACK, GRAY)
"""Okabe and Ito's colors, which color-blind readers can tell apart."""

STYLE: Any = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "lines.linewidth": 2.2,
    "lines.markersize": 6,
    "legend.frameon": False,
    "text.parse_math": False,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
}


def log_tick_labels() -> FuncFormatter:
    """Labels such as 1e-04 for a logarithmic axis. Matplotlib's own need math text, which `STYLE` turns off."""
    return FuncFormatter(lambda value, _: f"{value:.0e}")


def save_picture(path: Path, picture: Figure | Image.Image) -> None:
    """Write a PNG file whole or not at all.

    Raises:
        OSError: If the file cannot be written; an earlier file at `path` is then unchanged.
    """
    write_bytes(path, picture_bytes(picture))


def picture_bytes(picture: Figure | Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    png = io.BytesIO()
    picture.savefig(png, format="png") if isinstance(picture, Figure) else picture.save(png, format="png")
    return png.getvalue()
