"""A trained model as files that travel together: `model.safetensors`, `model.json` and a model card."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.losses import LOSSES, Objective, calibrate_ages, make_objective
from jaxage.models.registry import Model, create_model
from jaxage.pretrained.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, resolve_model
from jaxage.pretrained.safetensors_io import read_variables, write_variables
from jaxage.training.intervals import Intervals
from jaxage.types import Arch, Dtype, Framing, InputContract, Interpolation, LossName, RunPath, UserError, Variables
from jaxage.utils.files import write_json, write_text

_DEFAULT = InputContract()


@dataclass(frozen=True)
class ModelConfig:
    """What a trained network takes and gives.

    Input: RGB in 0-1, the shorter side resized to `image_size / crop` (`interpolation`, antialiased), the central
    square of `image_size`, then `(x - mean) / std`. Output: logits that the objective `loss`, with `age_mean` and
    `age_std` in years, turns into an age; with `flip` the age is the mean of the image's and its mirror's.
    `scale` and `offset` (years) of `jaxage calibrate` change that age to `scale * age + offset`.
    `framing` says where faces sat in the training crops, and `intervals` how sure an age is; None if unknown.
    """

    arch: Arch
    loss: LossName
    image_size: int
    age_mean: float
    age_std: float
    flip: bool = False
    dtype: Dtype = "float32"
    mean: tuple[float, ...] = _DEFAULT.mean
    std: tuple[float, ...] = _DEFAULT.std
    interpolation: Interpolation = _DEFAULT.interpolation
    crop: float = _DEFAULT.crop
    framing: Framing | None = None
    intervals: Intervals | None = None
    scale: float = 1.0
    offset: float = 0.0

    def objective(self) -> Objective:
        """The objective that the head was trained for, with the calibrated ages."""
        objective = make_objective(self.loss, self.age_mean, self.age_std)
        return calibrate_ages(objective, self.scale, self.offset) if self.is_calibrated() else objective

    def is_calibrated(self) -> bool:
        """Whether ages are changed by `scale` and `offset`."""
        return (self.scale, self.offset) != (1.0, 0.0)

    def has_distribution(self) -> bool:
        """Whether it predicts the probability of each age."""
        return LOSSES[self.loss].to_probabilities is not None

    def model(self) -> Model:
        """The network, with as many outputs as the objective needs."""
        return create_model(self.arch, outputs=self.objective().outputs, dtype=self.dtype)

    def input(self) -> InputContract:
        """What it expects of an image."""
        return InputContract(self.mean, self.std, self.interpolation, self.crop)


def export_model(folder: Path, variables: Variables, config: ModelConfig, card: str) -> None:
    """Write `model.safetensors`, `model.json` (the config) and `README.md` (`card`) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {name: _to_numpy(tree) for name, tree in variables.items()}
    metadata = {"arch": config.arch, "input": json.dumps(config.input()._asdict())}
    write_variables(folder / WEIGHTS_FILE, leaves, metadata)
    write_text(folder / CARD_FILE, card)
    write_model_config(folder, config)


def write_model_config(folder: Path, config: ModelConfig) -> None:
    """Write `model.json`: the config, and in words what goes in and comes out."""
    words = {
        "input": {
            "color": "RGB, 0-1, then (x - mean) / std",
            "resize": "shorter side to image_size / crop, antialiased",
            "crop": "central square of image_size",
        },
        "output": {
            "outputs": config.objective().outputs,
            "age": _formula(config),
        },
    }
    parts = {name: part and part._asdict() for name, part in _parts(config).items()}
    write_json(folder / CONFIG_FILE, asdict(config) | words | parts)


def _formula(config: ModelConfig) -> str:
    """How logits become an age, in words."""
    formula = LOSSES[config.loss].formula
    if not config.is_calibrated():
        return formula
    if config.has_distribution():
        return f"{formula}, where year i counts as scale * i + offset, at least 0 and at most the last year"
    return f"max(0, scale * age + offset), where age is {formula} without the max"


def load_model(run: RunPath) -> tuple[Variables, ModelConfig]:
    """Read what `export_model` wrote.

    Args:
        run: The folder of a finished run, its `model/` folder, or `hf://owner/name` or `hf://owner/name@revision`: a
            model that `jaxage push` uploaded to the Hugging Face Hub, of which safetensors and JSON are downloaded.

    Raises:
        UserError: if a file is missing or is not one of jaxage's, or if the Hub does not give the model.
    """
    folder = model_folder(run)
    config = read_model_config(folder)
    return read_variables(folder / WEIGHTS_FILE), config


def model_folder(run: RunPath) -> Path:
    """The `model/` folder of a run, `run` itself if it is one, or the local copy of a model of the Hub.

    Raises:
        UserError: if there is no model.
    """
    folder = resolve_model(run)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder} holds no model.json: give the folder of a finished run, or its model/ folder")
    return folder


def read_model_config(folder: Path) -> ModelConfig:
    """Read `model.json` in a model folder. Raises UserError if it is not one of jaxage's."""
    path = folder / CONFIG_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        names = [f.name for f in fields(ModelConfig) if f.name in stored or f.default is MISSING]
        known = {name: _tuples(stored[name]) for name in names}
        for name, kind in (("framing", Framing), ("intervals", Intervals)):
            known[name] = kind(**known[name]) if known.get(name) else None
        return ModelConfig(**known)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a model.json of jaxage ({error!r}): export it again") from error


def _parts(config: ModelConfig) -> dict[str, Framing | Intervals | None]:
    return {"framing": config.framing, "intervals": config.intervals}


def _tuples(value: Any) -> Any:
    """JSON lists as tuples, at any depth."""
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _to_numpy(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _to_numpy(v) if isinstance(v, dict) else np.asarray(v) for k, v in tree.items()}
