import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxage.data.decode import ImageError
from jaxage.data.formats import image_formats
from jaxage.photos.files import list_photos, read_names, read_photo


def test_folders_give_their_images_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "sub/deep/c.webp", ".hidden/d.jpg", ".e.jpg", "notes.txt", "film.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    found = list_photos([str(tmp_path), "named.txt"])
    assert found == [f"{tmp_path}/{name}" for name in ("a.png", "b.JPG", "sub/deep/c.webp")] + ["named.txt"]
    (tmp_path / "empty").mkdir()
    assert list_photos([str(tmp_path / "empty")]) == [str(tmp_path / "empty")]


@pytest.mark.parametrize("text", [b"a b.jpg\nc.jpg\n", b"a b.jpg\0c.jpg\0", b"\na b.jpg\r\nc.jpg"])
def test_names_come_from_stdin(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert read_names(["first.png", "-", "last.png"]) == ["first.png", "a b.jpg", "c.jpg", "last.png"]


def test_photos_are_read_upright_in_every_format(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = (250, 30, 30)
    upright = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.jpg", quality=95, exif=turned)
    for ending in ("png", "webp", "gif", "tiff", "bmp", "jp2", "ico" if "ICO" not in image_formats() else "tga"):
        upright.save(tmp_path / f"photo.{ending}")
    for file in sorted(tmp_path.iterdir()):
        found = np.asarray(read_photo(str(file)), float)
        assert np.abs(found - pixels).mean() < 6, file.name
    assert "EPS" not in image_formats()


def test_what_is_no_photo_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("x")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, reason in (("text.jpg", "known format"), ("empty.jpg", "empty file"), ("none.jpg", "No such file")):
        with pytest.raises(ImageError, match=reason):
            read_photo(str(tmp_path / name))
    with pytest.raises(ImageError, match="a folder without an image"):
        read_photo(str(tmp_path))
    with pytest.raises(ImageError, match="null"):
        read_photo("a\0b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_photo(str(tmp_path / "pipe.jpg"))
