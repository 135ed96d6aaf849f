"""A trained model as two files that travel together: `model.safetensors` and `model.json`."""

import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.losses import LOSSES, Objective, make_objective
from jaxage.models.registry import Model, create_model
from jaxage.pretrained.safetensors_io import read_variables, write_variables
from jaxage.types import Arch, Dtype, LossName, UserError, Variables
from jaxage.utils.files import write_json, write_text

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INPUT = {
    "colour": "RGB, 0-1, then (x - mean) / std",
    "resize": "shorter side to image_size",
    "interpolation": "bilinear, antialiased",
    "crop": "centre square",
}


@dataclass(frozen=True)
class ModelConfig:
    """What goes in and what comes out.

    Input: RGB in 0-1, the shorter side resized to `image_size` (bilinear, antialiased), centre-cropped to a square,
    then `(x - mean) / std`. Output: `outputs` logits that the objective `loss`, with `age_mean` and `age_std` in years,
    turns into an age; with `flip` it is the mean of that and the mirror image's.
    """

    arch: Arch
    loss: LossName
    image_size: int
    age_mean: float
    age_std: float
    flip: bool = False
    dtype: Dtype = "float32"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def objective(self) -> Objective:
        """The objective of this contract."""
        return make_objective(self.loss, self.age_mean, self.age_std)

    def model(self) -> Model:
        """The network of this contract."""
        return create_model(self.arch, outputs=self.objective().outputs, dtype=self.dtype)


def export_model(folder: Path, variables: Variables, contract: ModelConfig, card: str) -> None:
    """Write `model.safetensors`, `model.json` (the contract) and `README.md` (`card`) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {name: _to_numpy(tree) for name, tree in variables.items()}
    write_variables(folder / "model.safetensors", leaves, {"arch": contract.arch})
    write_text(folder / "README.md", card)
    output = {"outputs": contract.objective().outputs, "age": LOSSES[contract.loss].formula}
    write_json(folder / "model.json", asdict(contract) | {"input": _INPUT, "output": output})


def load_model(folder: Path) -> tuple[Variables, ModelConfig]:
    """What `export_model` wrote, from its folder or the run's. Raises UserError naming what is missing."""
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / "model.json").is_file():
        raise UserError(f"{folder} holds no model.json: give the folder of a finished run, or its model/ folder")
    try:
        fields = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        known = {field.name: fields[field.name] for field in dataclasses.fields(ModelConfig)}
        contract = ModelConfig(**(known | {name: tuple(known[name]) for name in ("mean", "std")}))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / 'model.json'} is no contract of jaxage ({error!r}): export it again") from error
    return read_variables(folder / "model.safetensors"), contract


def _to_numpy(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _to_numpy(v) if isinstance(v, dict) else np.asarray(v) for k, v in tree.items()}
