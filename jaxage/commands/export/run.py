"""`jaxage export`: a trained model for another runtime, compared with JAX before it appears."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from jaxage.commands.export.int8 import quantize
from jaxage.commands.export.onnx_graph import onnx_model, run_onnx
from jaxage.commands.export.onnx_networks import find_trunk
from jaxage.commands.export.stablehlo import estimate, run_stablehlo, stablehlo_model
from jaxage.commands.export.torch_files import run_torch, torch_files
from jaxage.config import cache_folder
from jaxage.data.load import load_data
from jaxage.data.prepare.output import move_into_place, require_empty, unfinished_folder
from jaxage.data.records import spread
from jaxage.pretrained.hub import parse_hub_path
from jaxage.training.export import ModelConfig, load_model, model_folder
from jaxage.training.run_folder import read_config, require_inputs
from jaxage.types import Log, RunPath, StoredImages, UserError, Variables, Years
from jaxage.utils.files import write_bytes, write_json

ExportFormat = Literal["onnx", "onnx-int8", "stablehlo", "torch"]

_IMAGES, _RANDOM = 512, 16
_CALIBRATION = 512
_TOLERANCE, _MAE_TOLERANCE_INT8 = 0.01, 0.1


class Samples(NamedTuple):
    """What an export is compared on.

    images: test images of the run, or random ones. calibration: training images. age: of the test images in years; None
    for random ones.
    """

    images: StoredImages
    calibration: StoredImages
    age: Years | None


def export(run: RunPath, form: ExportFormat, out: Path | None = None, log: Log = print) -> Path:
    """Write a model for another runtime, with its input contract (`model.json`) and its card.

    The folder appears when its ages agree with JAX's on test images of the run, or not at all.

    Args:
        run: The folder of a finished run, its `model/` folder, or `hf://owner/name@revision` on the Hugging Face Hub.
        form: "onnx" and "stablehlo" take uint8 images and give ages; "onnx-int8" is the same in 8 bits; "torch" is a
            state dict for timm and torchvision.
        out: The folder to make; by default `RUN/export-FORMAT`, and `export-FORMAT` for a model of the Hub.
        log: Takes the largest difference.

    Returns:
        The folder.

    Raises:
        UserError: for a run without a model, a network or loss that the format cannot hold, a folder that is not
            empty, and ages that differ by more than 0.01 years (in 8 bits: a MAE that is worse by more than 0.1).
    """
    if form not in get_args(ExportFormat):
        raise UserError(f"unknown format {form!r}: choose one of {', '.join(get_args(ExportFormat))}")
    variables, config = load_model(run)
    config = replace(config, dtype="float32")  # whatever it was trained with: bfloat16 differs between compilers
    default = Path() if parse_hub_path(run) else Path(run)
    out = (out or default / f"export-{form}").resolve()
    require_empty(out)
    samples = _samples(run, config)
    with unfinished_folder(out) as work:
        folder = work / "model"
        folder.mkdir()
        ages = _write(folder, run, form, variables, config, samples)
        for name in ("model.json", "README.md"):
            source = model_folder(run) / name
            if source.is_file():
                write_bytes(folder / name, source.read_bytes())
        compared = _compare(ages, variables, config, form, samples)
        sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in sorted(folder.iterdir()))
        move_into_place(folder, out)
    log(f"{compared}\nwritten: {out}: {sizes}")
    return out


def _write(
    folder: Path, run: RunPath, form: ExportFormat, variables: Variables, config: ModelConfig, samples: Samples
) -> Years | None:
    """Write the files of one format, and read them again for the ages of the sample."""
    images = samples.images
    if form in ("onnx", "onnx-int8"):
        contract = (model_folder(run) / "model.json").read_text(encoding="utf-8")
        data = onnx_model(variables, config, find_trunk(config.arch), {"jaxage": json.dumps(json.loads(contract))})
        write_bytes(folder / "model.onnx", data)
        if form == "onnx-int8":
            if samples.age is None:
                raise UserError(f"{form} takes the ranges of its numbers from training images: the run's data are gone")
            quantize(folder / "model.onnx", folder / "model.int8.onnx", samples.calibration)
            (folder / "model.onnx").unlink()
        return run_onnx(next(folder.glob("*.onnx")).read_bytes(), images)
    if form == "stablehlo":
        write_bytes(folder / "model.stablehlo", stablehlo_model(variables, config))
        return run_stablehlo((folder / "model.stablehlo").read_bytes(), images)
    for name, content in torch_files(variables, config).items():
        if isinstance(content, bytes):
            write_bytes(folder / name, content)
        else:
            write_json(folder / name, content)
    return run_torch(folder, config, images)


def _compare(
    ages: Years | None, variables: Variables, config: ModelConfig, form: ExportFormat, samples: Samples
) -> str:
    """How the ages differ from JAX's, in words. Raises UserError if it is too much."""
    if ages is None:
        return "not compared with JAX, for torch and timm cannot be imported here"
    expected = np.asarray(estimate(variables, config, jnp.asarray(samples.images))["age"])
    difference = np.abs(ages - expected)
    largest, mean = float(difference.max()), float(difference.mean())
    if form != "onnx-int8" and not largest <= _TOLERANCE:
        raise UserError(f"the exported model differs from JAX by {largest:.3g} years: nothing was written")
    kind = "random images, as the data of the run are not there" if samples.age is None else "test images"
    text = f"largest difference from JAX on {len(ages)} {kind}: {largest:.2g} years"
    if samples.age is not None and form == "onnx-int8":
        before, after = (float(np.abs(each - samples.age).mean()) for each in (expected, ages))
        if not after - before <= _MAE_TOLERANCE_INT8:
            raise UserError(f"in 8 bits the MAE is {after:.2f} years instead of {before:.2f}: nothing was written")
        text += f", {mean:.2g} on average; their MAE is {after:.2f}, in float32 {before:.2f}"
    return text


def _samples(run: RunPath, config: ModelConfig) -> Samples:
    """Some images of the run, or random ones if its data are not there any more."""
    try:
        settings = replace(read_config(Path(run)), image_size=config.image_size)
        dataset = load_data(settings, cache_folder(), contract=config.input())
        require_inputs(Path(run), {"data": dataset.sha256})
        test, train = (dataset.records.rows_of(split) for split in ("test", "train"))
        test, train = spread(test, _IMAGES), spread(train, _CALIBRATION)
        return Samples(dataset.images[test], dataset.images[train], dataset.records.age[test])
    except (UserError, OSError):
        shape = (_RANDOM, config.image_size, config.image_size, 3)
        random = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return Samples(random, random, None)
