"""Contact sheets: many faces in one picture, each with a caption."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from jaxage.report.style import save_picture

_GAP, _TEXT_HEIGHT = 10, 26
_MIN_WIDTH = 128


def contact_sheet(
    path: Path, images: UInt8[np.ndarray, "n height width 3"], captions: Sequence[str], columns: int
) -> None:
    """Draw images in rows, each above its caption.

    Small images are enlarged by a whole factor, to a width of 128 pixels or more. Captions that are too long are cut.

    Args:
        path: The PNG file to write.
        images: RGB, 0-255; at least one.
        captions: One line of text for each image.
        columns: Images per row.

    Raises:
        ValueError: For images of another shape or dtype, no images, another number of captions, or no columns.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not images.size:
        raise ValueError(f"images {images.shape} {images.dtype}: (n, h, w, 3) uint8 is needed, n 1 or more")
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} images, {len(captions)} captions: each image needs one")
    if columns < 1:
        raise ValueError(f"images in {columns} columns: 1 column or more is needed")
    count, height, width, _ = images.shape
    factor = -(-_MIN_WIDTH // width)
    height, width = factor * height, factor * width
    columns = min(columns, count)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 17)
    cell_height, cell_width = height + _TEXT_HEIGHT + _GAP, width + _GAP
    sheet = Image.new("RGB", (columns * cell_width + _GAP, -(-count // columns) * cell_height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = _GAP + index % columns * cell_width, _GAP + index // columns * cell_height
        sheet.paste(Image.fromarray(image.repeat(factor, 0).repeat(factor, 1)), (left, top))
        draw.text((left, top + height + 3), _cut(caption, font, width), fill="black", font=font)
    save_picture(path, sheet)


def _cut(caption: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    caption = " ".join(caption.split())
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"
