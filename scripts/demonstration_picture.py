"""The picture of the README, from the folder of a demonstration: python scripts/demonstration_picture.py RUN"""

import sys
from pathlib import Path

from PIL import Image

_WIDTH = 1400
_ROWS = 0.712  # of the sheet of faces: five of its seven rows


def main(run: Path) -> None:
    """Drawn faces with age and prediction on the left, the scatter plot of all test predictions on the right."""
    faces, scatter = (Image.open(run / name).convert("RGB") for name in ("faces.png", "scatter.png"))
    faces = faces.crop((0, 0, faces.width, round(faces.height * _ROWS)))
    width = _WIDTH // 2
    parts = [part.resize((width, round(part.height * width / part.width)), Image.LANCZOS) for part in (faces, scatter)]
    picture = Image.new("RGB", (_WIDTH, max(part.height for part in parts)), "white")
    for left, part in zip((0, width), parts, strict=True):
        picture.paste(part, (left, (picture.height - part.height) // 2))
    picture.quantize(256).save(Path("docs/images/demonstration.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
