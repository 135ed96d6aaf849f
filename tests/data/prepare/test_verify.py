import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from jaxage.data.files import open_files
from jaxage.data.prepare.verify import STEPS, InvalidImage, ValidImage, verify_images


def jpeg(size: int, seed: int | None = 0) -> bytes:
    noise = np.full((8, 8, 3), 90, np.uint8)
    if seed is not None:
        noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def test_every_fault_has_its_step_and_reason(tmp_path: Path) -> None:
    files = {
        "good.jpg": jpeg(50),
        "small.jpg": jpeg(40),
        "blank.jpg": jpeg(50, None),
        "cut.jpg": jpeg(50)[:300],
        "text.jpg": b"hello",
        "empty.jpg": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "good.jpg")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpg").write_bytes(jpeg(50))
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    expected = {
        "good.jpg": "",
        "real/x.jpg": "",
        "small.jpg": "image: too small (40x40, at least 45",
        "blank.jpg": "image: blank",
        "cut.jpg": "image: truncated",
        "text.jpg": "image: not an image",
        "empty.jpg": "image: empty file",
        "link.jpg": "safe path: a link",
        "linked/x.jpg": "safe path: in a folder that is a link",
        "none.jpg": "found: missing",
        "good.jpg/x": "found: Not a directory",
        "../good.jpg": "safe path: leads upwards",
        "a\0b": "safe path: holds a NUL",
        "a\\b": "safe path: holds a backslash",
        "/etc/passwd": "safe path: is absolute",
    }
    with open_files(tmp_path) as files, ThreadPoolExecutor(2) as pool:
        findings = verify_images(files.read, list(expected), 45, pool)
    for (path, reason), finding in zip(expected.items(), findings, strict=True):
        if isinstance(finding, InvalidImage):
            assert finding.path == path
            assert finding.step in STEPS
            assert reason
            assert f"{finding.step}: {finding.reason}".startswith(reason), finding
        else:
            assert not reason, path
            assert isinstance(finding, ValidImage)
            assert finding.sha256 == hashlib.sha256(jpeg(50)).hexdigest()
            assert finding.size == len(jpeg(50))
