from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxage.report.contact_sheet import contact_sheet
from tests.report.pictures import read


def test_contact_sheet_holds_the_images_pixel_by_pixel(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 40, 64, 3), dtype=np.uint8)
    contact_sheet(tmp_path / "sheet.png", images, [f"{i} years" for i in range(7)], columns=3)
    sheet = np.asarray(read(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * (80 + 26 + 10) + 10, 3 * (128 + 10) + 10, 3)
    for index, image in enumerate(images):
        top, left = 10 + index // 3 * 116, 10 + index % 3 * 138
        np.testing.assert_array_equal(sheet[top : top + 80 : 2, left : left + 128 : 2], image)
        assert (sheet[top + 80 : top + 106, left : left + 128] < 100).any()
    assert (sheet[-116:, 10 + 138 :] == 255).all()


@pytest.mark.parametrize("caption", ["", "one\nline\tof text", "far too long for a picture " * 9, "été 年"])
def test_contact_sheet_keeps_captions_in_their_cell(tmp_path: Path, caption: str) -> None:
    images = np.full((2, 128, 128, 3), 255, np.uint8)
    contact_sheet(tmp_path / "sheet.png", images, [caption, ""], columns=9)
    sheet = np.asarray(read(tmp_path / "sheet.png"))
    assert sheet.shape == (128 + 26 + 20, 2 * 138 + 10, 3)
    assert (sheet[:, 140:] == 255).all()
    assert (sheet[:138] == 255).all()
    assert (sheet < 255).any() == bool(caption)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("shape", "dtype", "captions", "columns"),
    [
        ((0, 8, 8, 3), np.uint8, 0, 1),
        ((2, 8, 8), np.uint8, 2, 1),
        ((2, 8, 8, 1), np.uint8, 2, 1),
        ((2, 8, 8, 3), np.float32, 2, 1),
        ((2, 8, 8, 3), np.uint8, 1, 1),
        ((2, 8, 8, 3), np.uint8, 2, 0),
    ],
)
def test_contact_sheet_refuses(tmp_path: Path, shape: Any, dtype: Any, captions: int, columns: int) -> None:
    with pytest.raises(ValueError, match="images"):
        contact_sheet(tmp_path / "sheet.png", np.zeros(shape, dtype), ["a"] * captions, columns)
    assert not list(tmp_path.iterdir())
