import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxage.training.export import ModelConfig, export_model, load_model
from jaxage.training.intervals import Intervals
from jaxage.types import Framing, UserError
from jaxage.utils.trees import flatten

FRAMING = Framing(0.5, 0.5625, 0.25)
INTERVALS = Intervals((20.0, 40.0), (0.5, 0.9), ((1.0, 2.5), (2.0, 4.0), (3.0, 7.5)), scaled=False)
CONFIG = ModelConfig("resnet18", "l1", 64, 33.5, 20.25, dtype="bfloat16", framing=FRAMING, intervals=INTERVALS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "model"
    variables = CONFIG.model().init(jax.random.key(1))
    export_model(path, variables, CONFIG, "# a card\n")
    return path


def test_the_model_and_its_contract_come_back(folder: Path) -> None:
    for place in (folder, folder.parent):
        variables, contract = load_model(place)
        assert contract == CONFIG
        wanted = flatten(CONFIG.model().init(jax.random.key(1)))
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
        "interpolation": "bilinear",
        "crop": 1.0,
        "framing": {"x": 0.5, "y": 0.5625, "scale": 0.25},
        "intervals": {
            "edges": [20.0, 40.0],
            "coverages": [0.5, 0.9],
            "radii": [[1.0, 2.5], [2.0, 4.0], [3.0, 7.5]],
            "scaled": False,
        },
        "scale": 1.0,
        "offset": 0.0,
        "input": {
            "color": "RGB, 0-1, then (x - mean) / std",
            "resize": "shorter side to image_size / crop, antialiased",
            "crop": "central square of image_size",
        },
        "output": {"outputs": 1, "age": "max(0, z * age_std + age_mean)"},
    }


def test_a_model_of_an_earlier_version_is_read(folder: Path, tmp_path: Path) -> None:
    fields = json.loads((folder / "model.json").read_text())
    for later in ("interpolation", "crop", "framing", "intervals"):
        del fields[later]
    (tmp_path / "model.json").write_text(json.dumps(fields))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert load_model(tmp_path)[1] == replace(CONFIG, framing=None, intervals=None)


def test_another_programs_model_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"arch": "resnet18"}'):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(UserError, match=r"is not a model\.json of jaxage"):
            load_model(tmp_path)


def test_half_a_model_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text((folder / "model.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(tmp_path)
