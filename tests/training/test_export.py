import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxage.training.export import ModelConfig, export_model, load_model
from jaxage.types import UserError
from jaxage.utils.trees import flatten

CONTRACT = ModelConfig("resnet18", "l1", 64, 33.5, 20.25, dtype="bfloat16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "model"
    variables = CONTRACT.model().init(jax.random.key(1))
    export_model(path, variables, CONTRACT, "# a card\n")
    return path


def test_the_model_and_its_contract_come_back(folder: Path) -> None:
    for place in (folder, folder.parent):
        variables, contract = load_model(place)
        assert contract == CONTRACT
        wanted = flatten(CONTRACT.model().init(jax.random.key(1)))
        for name, value in flatten(variables).items():
            assert np.asarray(wanted[name]).tobytes() == value.tobytes(), name


def test_the_contract_says_all_that_another_program_needs(folder: Path) -> None:
    fields = json.loads((folder / "model.json").read_text())
    assert fields == {
        "arch": "resnet18",
        "loss": "l1",
        "image_size": 64,
        "age_mean": 33.5,
        "age_std": 20.25,
        "flip": False,
        "dtype": "bfloat16",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input": {
            "colour": "RGB, 0-1, then (x - mean) / std",
            "resize": "shorter side to image_size",
            "interpolation": "bilinear, antialiased",
            "crop": "centre square",
        },
        "output": {"outputs": 1, "age": "max(0, z * age_std + age_mean)"},
    }


def test_another_programs_model_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"arch": "resnet18"}'):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(UserError, match=r"model\.json is no contract"):
            load_model(tmp_path)


def test_half_a_model_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text((folder / "model.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(tmp_path)
