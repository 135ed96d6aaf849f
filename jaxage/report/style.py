"""What all pictures share: colors, type, and that they are written whole or not at all."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#6b6b6b"  # Okabe and Ito's, safe for color-blind readers
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


def shown(value: float | None, spec: str, unit: str = "") -> str:
    """The number as `spec` has it, with its unit; "undefined" if there is none."""
    return "undefined" if value is None or not np.isfinite(value) else f"{value:{spec}}{unit}"


def powers() -> FuncFormatter:
    """Ticks of a logarithmic axis; Matplotlib's own are mathematical markup, which `STYLE` turns off."""
    return FuncFormatter(lambda value, _: f"{value:.0e}")


def save_picture(path: Path, picture: Figure | Image.Image) -> None:
    """Write the PNG beside `path` and rename it, so that there is never half a picture."""
    png = io.BytesIO()
    picture.savefig(png, format="png") if isinstance(picture, Figure) else picture.save(png, format="png")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(png.getvalue())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
