"""Formats of image files: which ones are read, and what a file is that has none of them."""

from contextlib import suppress
from functools import cache
from importlib import import_module

from PIL import Image

_RUNS_A_PROGRAM = {"EPS"}  # Pillow starts Ghostscript for it

_OTHER_KINDS: dict[bytes, str] = {
    b"<!doctype html": "an HTML page, not an image: download it again",
    b"<html": "an HTML page, not an image: download it again",
    b"<svg": "an SVG drawing, which has no pixels: convert it to PNG",
    b"<?xml": "an XML file, not an image",
    b"version https://git-lfs": "a Git LFS pointer, not the image: run git lfs pull",
    b"/annex/objects": "a git-annex pointer, not the image: run git annex get",
    b"%pdf": "a PDF document, not an image",
}
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that it reads here, HEIF among them if pillow-heif is installed."""
    with suppress(ModuleNotFoundError):
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _RUNS_A_PROGRAM))


@cache
def image_endings() -> tuple[str, ...]:
    """The endings of image files that are read here, in lower case with the dot."""
    formats = set(image_formats())
    return tuple(ending for ending, name in Image.registered_extensions().items() if name in formats)


def unknown_kind(data: bytes) -> str:
    """What a file is that has none of the formats, and what to do."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return "an HEIC image that cannot be read here: pip install pillow-heif, or convert it to JPEG"
    if data[4:8] == b"ftyp":
        return "an AVIF image or a video that cannot be read here: convert it to JPEG"
    start = data[:200].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    found = next((kind for magic, kind in _OTHER_KINDS.items() if start.startswith(magic)), None)
    return found or "not an image in a known format"
