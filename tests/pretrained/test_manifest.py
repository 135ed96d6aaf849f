import json
import re
from pathlib import Path
from typing import Any

import pytest

from jaxage.models.registry import MODELS
from jaxage.pretrained import manifest
from jaxage.pretrained.manifest import parse_input, read_manifest, weights_folder
from jaxage.types import InputContract, UserError

INPUT = {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "interpolation": "bicubic", "crop": 0.875}
FILE = {"file": "a.pth", "sha256": "0" * 64, "url": "https://a"}


def test_every_network_has_published_weights() -> None:
    entries = read_manifest()
    assert {tag.split(".")[0] for tag in entries} == {*MODELS, "centerface"}
    for arch in MODELS:
        assert f"{arch}.imagenet1k_v1" in entries
    for entry in entries.values():
        assert entry.license
        assert entry.input == InputContract() or entry.tag.startswith("centerface.")
        for file in entry.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.url.startswith("https://") or "==" in file.requirement


def test_torchvisions_names_have_the_first_digits_of_the_hash() -> None:
    files = [file for entry in read_manifest().values() for file in entry.files]
    named = [(match[1], file.sha256) for file in files if (match := re.search(r"-([0-9a-f]{8})\.pth$", file.file))]
    assert len(named) == 6
    assert all(sha256.startswith(digits) for digits, sha256 in named)


def test_weights_are_stored_in_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkout = Path(__file__).parents[2] / "weights"
    assert weights_folder() == checkout
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path / "none")
    monkeypatch.setenv("JAXAGE_CACHE", str(tmp_path / "cache"))
    assert weights_folder() == tmp_path / "cache" / "weights"


def test_an_input_contract_is_read() -> None:
    wanted = InputContract((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "bicubic", 0.875)
    assert parse_input(INPUT, "here") == wanted
    assert parse_input(json.loads(json.dumps(wanted._asdict())), "here") == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "area"}, r"input\.interpolation must be one of .*'bilinear'.*, got 'area'"),
        ({"interpolation": ["bilinear"]}, r"input\.interpolation must be one of"),
        ({"crop": 1.5}, r"input\.crop must be a number in \(0, 1\], got 1\.5"),
        ({"crop": True}, r"input\.crop must be a number"),
        ({"mean": [0.5, 0.5]}, r"input\.mean must be three numbers"),
        ({"mean": ["a", 0.5, 0.5]}, r"input\.mean must be three numbers"),
        ({"std": [1, 0, 1]}, r"input\.std must be positive"),
        ({"size": 224}, r"input has unknown keys: size; known are crop"),
    ],
)
def test_a_wrong_input_contract_is_refused_by_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_input(INPUT | change, "input")
    with pytest.raises(UserError, match="input lacks mean"):
        parse_input({name: value for name, value in INPUT.items() if name != "mean"}, "input")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"license": None}, r"\.license must be a string, got None"),
        ({"input": []}, r"\.input must be an object, got \[\]"),
        ({"input": INPUT | {"crop": 0}}, r"\.input\.crop must be"),
        ({"files": []}, r"\.files must be a list with at least one file"),
        ({"files": [FILE | {"sha256": 7}]}, r"\.files\[0\]\.sha256 must be a string, got 7"),
        ({"files": [{"file": "a.pth", "sha256": "0"}]}, r"\.files\[0\] lacks member, requirement"),
        ({"licence": "MIT"}, "has unknown keys: licence"),
    ],
)
def test_a_wrong_manifest_is_refused_by_tag_and_key(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"license": "MIT", "origin": "a test", "input": INPUT, "files": [FILE]}
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"resnet18.test": entry}))
    assert list(read_manifest()) == ["resnet18.test"]
    (tmp_path / "manifest.json").write_text(json.dumps({"resnet18.test": entry | change}))
    with pytest.raises(UserError, match=rf"manifest\.json: resnet18\.test.*{message}"):
        read_manifest()
