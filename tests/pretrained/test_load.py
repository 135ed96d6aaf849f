import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxage.models.registry import create_model
from jaxage.pretrained import load, manifest
from jaxage.pretrained.convert import ConversionError, to_flax
from jaxage.pretrained.load import WeightsError, find_input, find_weights, load_pretrained, merge, weights_path
from jaxage.types import InputContract, UserError, WeightsUnavailableError
from jaxage.utils.trees import flatten
from tests.pretrained.state import torch_state
from tests.pretrained.test_torch_file import tensor, zipped

STATE = torch_state("resnet18")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "resnet18_mine.safetensors"
    save_file(STATE, path)
    return path


def test_a_file_by_its_name_and_sum(file: Path) -> None:
    found = find_weights(file, "resnet18")
    assert found.tag == "resnet18.mine"
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    wanted = flatten(to_flax(STATE, "resnet18").variables)
    for name, value in flatten(found.variables).items():
        np.testing.assert_array_equal(value, wanted[name])


def test_a_pth_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    content = {name: tensor(array, key=str(i)) for i, (name, array) in enumerate(STATE.items())}
    path.write_bytes(zipped(content, {str(i): array for i, array in enumerate(STATE.values())}))
    found = flatten(find_weights(path, "resnet18").variables)
    np.testing.assert_array_equal(found["params.fc.kernel"], STATE["fc.weight"].T)


def test_the_trunk_is_the_files_and_the_head_is_new(file: Path) -> None:
    model = create_model("resnet18", outputs=5)
    leaves = flatten(load_pretrained(model, file, jax.random.key(3)))
    fresh = flatten(model.init(jax.random.key(3)))
    given = flatten(to_flax(STATE, "resnet18").variables)
    for name, value in leaves.items():
        np.testing.assert_array_equal(value, fresh[name] if ".fc." in name else given[name], err_msg=name)
    drawn = flatten(load_pretrained(model, "random", jax.random.key(3)))
    np.testing.assert_array_equal(drawn["params.conv1.kernel"], fresh["params.conv1.kernel"])


def test_weights_of_another_network(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"mine\.safetensors': no mobilenet_v2: .* they are those of resnet18"):
        find_weights(file, "mobilenet_v2")
    load.write_variables(
        tmp_path / "own.safetensors",
        to_flax(STATE, "resnet18").variables,
        {"arch": "resnet18", "source_sha256": "0"},
    )
    found = find_weights(tmp_path / "own.safetensors", "resnet18")
    assert (found.tag, found.sha256) == ("own", "0")
    with pytest.raises(WeightsError, match="holds a resnet18, not a mobilenet_v2"):
        find_weights(tmp_path / "own.safetensors", "mobilenet_v2")


def test_a_name_that_is_neither_tag_nor_file() -> None:
    for find in (find_weights, find_input):
        with pytest.raises(WeightsError, match=r"'imagnet' is neither a file.*resnet18\.imagenet1k_v1.*random"):
            find("imagnet", "resnet18")


def test_a_folder_of_the_same_name_is_not_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("random", "imagenet1k_v1", "resnet18.imagenet1k_v1", "mine"):
        (tmp_path / name).mkdir()
        assert (weights_path(name, "resnet18") is None) == (name != "mine")
        (tmp_path / f"{name}.pth").touch()
        assert weights_path(f"{name}.pth", "resnet18") == Path(f"{name}.pth")
    assert weights_path("none", "resnet18") is None


def test_what_does_not_fit_is_listed_whole() -> None:
    fresh = {"params": {"conv1": {"kernel": np.zeros((2, 2))}, "fc": {"kernel": np.zeros(3)}}}
    given = {"params": {"conv1": {"kernel": np.zeros((2, 3))}, "conv2": {"kernel": np.zeros(1)}}}
    with pytest.raises(WeightsError) as error:
        merge(fresh | {"batch_stats": {"bn1": {"mean": np.zeros(1)}}}, given, "fc")
    for words in (
        "3 faults",
        "missing: batch_stats.bn1.mean",
        "unknown: params.conv2.kernel",
        "shape: params.conv1.kernel is (2, 3), expected (2, 2)",
    ):
        assert words in str(error.value)


INPUT = {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "interpolation": "bicubic", "crop": 0.875}
CONTRACT = InputContract((0.5, 0.5, 0.5), (1, 1, 1), "bicubic", 0.875)


@pytest.fixture
def folder(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder whose manifest has one tag, to be fetched from nowhere."""
    folder = tmp_path / "weights"
    folder.mkdir()
    source = {
        "file": "r.safetensors",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "url": "http://127.0.0.1:9/r",
    }
    entry: dict[str, Any] = {"license": "MIT", "origin": "a test", "input": INPUT, "files": [source]}
    (folder / "manifest.json").write_text(json.dumps({"resnet18.test": entry}))
    monkeypatch.setattr(manifest, "_CHECKOUT", folder)
    return folder


@pytest.mark.parametrize("tag", ["test", "resnet18.test"])
def test_a_tag_is_converted_once_and_kept(tag: str, folder: Path, file: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match="no connection"):
        find_weights(tag, "resnet18")
    (folder / "r.safetensors").write_bytes(file.read_bytes())
    assert find_input(tag, "resnet18") == CONTRACT
    first = find_weights(tag, "resnet18")
    assert first.tag == "resnet18.test"
    assert first.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "r.safetensors").unlink()
    again = find_weights(tag, "resnet18")
    assert (again.tag, again.sha256, again.input) == (first.tag, first.sha256, CONTRACT)
    moved = (folder / "resnet18.test.safetensors").rename(file.with_name("copy.safetensors"))
    assert find_input(moved, "resnet18") == find_weights(moved, "resnet18").input == CONTRACT
    kept, wanted = flatten(again.variables), flatten(first.variables)
    for name, value in wanted.items():
        np.testing.assert_array_equal(kept[name], value)


def test_only_the_published_file_bears_a_tag(folder: Path, file: Path) -> None:
    mine = file.with_name("resnet18_test.safetensors")
    save_file(STATE | {"conv1.weight": STATE["conv1.weight"] + 1}, mine)
    assert find_weights(mine, "resnet18").tag == "resnet18_test.safetensors"
    assert find_weights(file.rename(mine), "resnet18").tag == "resnet18.test"


def test_somebody_elses_file_in_the_weights_folder_is_not_the_tag(folder: Path, file: Path) -> None:
    other = to_flax(STATE | {"conv1.weight": STATE["conv1.weight"] + 1}, "resnet18").variables
    for metadata in ({"arch": "resnet18", "source_sha256": "0"}, {"arch": "resnet18"}):
        load.write_variables(folder / "resnet18.test.safetensors", other, metadata)
        with pytest.raises(WeightsUnavailableError):
            find_weights("test", "resnet18")
    save_file(STATE, folder / "resnet18.test.safetensors")
    with pytest.raises(WeightsUnavailableError):
        find_weights("test", "resnet18")
    (folder / "r.safetensors").write_bytes(file.read_bytes())
    found = flatten(find_weights("test", "resnet18").variables)
    np.testing.assert_array_equal(found["params.fc.bias"], STATE["fc.bias"])


def test_what_has_no_contract_of_its_own_gets_the_default(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"not read")
    for weights in (file, tmp_path / "mine.pth", "random"):
        assert find_input(weights, "resnet18") == InputContract()
    assert find_weights(file, "resnet18").input == InputContract()


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("{}", "input lacks crop"), ("3", "an object")])
def test_metadata_that_are_no_contract_are_refused_with_the_file(text: str, message: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "mine.safetensors", {"input": text})
    with pytest.raises(UserError, match=rf"mine\.safetensors.*{message}"):
        find_input(tmp_path / "mine.safetensors", "resnet18")
