"""`jaxage export`: a trained model for another runtime, compared with JAX before it appears."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from jaxage.commands.export.onnx_graph import onnx_model, run_onnx
from jaxage.commands.export.onnx_networks import find_trunk
from jaxage.commands.export.stablehlo import estimate, run_stablehlo, stablehlo_model
from jaxage.commands.export.torch_files import run_torch, torch_files
from jaxage.config import cache_folder
from jaxage.data.load import load_data
from jaxage.data.prepare.output import require_empty, unfinished_folder
from jaxage.pretrained.hub import parse_hub_path
from jaxage.training.export import ModelConfig, load_model, model_folder
from jaxage.training.run_folder import read_config, require_inputs
from jaxage.types import Log, RunPath, StoredImages, UserError, Variables, Years
from jaxage.utils.files import rename_folder, write_bytes, write_json

ExportFormat = Literal["onnx", "stablehlo", "torch"]

_IMAGES, _RANDOM = 128, 16
_TOLERANCE = 0.01


def export(run: RunPath, form: ExportFormat, out: Path | None = None, log: Log = print) -> Path:
    """Write a model for another runtime, with its input contract (`model.json`) and its card.

    The folder appears when its ages agree with JAX's on test images of the run, or not at all.

    Args:
        run: The folder of a finished run, its `model/` folder, or `hf://owner/name@revision` on the Hugging Face Hub.
        form: "onnx" and "stablehlo" take uint8 images and give ages; "torch" is a state dict for timm and torchvision.
        out: The folder to make; by default `RUN/export-FORMAT`, and `export-FORMAT` for a model of the Hub.
        log: Takes the largest difference.

    Returns:
        The folder.

    Raises:
        UserError: for a run without a model, a network or loss that the format cannot hold, a folder that is not
            empty, and ages that differ by more than 0.01 years.
    """
    if form not in get_args(ExportFormat):
        raise UserError(f"unknown format {form!r}: choose one of {', '.join(get_args(ExportFormat))}")
    variables, config = load_model(run)
    default = Path() if parse_hub_path(run) else Path(run)
    out = (out or default / f"export-{form}").resolve()
    require_empty(out)
    images, kind = _test_images(run, config)
    with unfinished_folder(out) as work:
        folder = work / "model"
        folder.mkdir()
        ages = _write(folder, run, form, variables, config, images)
        for name in ("model.json", "README.md"):
            source = model_folder(run) / name
            if source.is_file():
                write_bytes(folder / name, source.read_bytes())
        difference = _compare(ages, variables, config, form, images)
        sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in sorted(folder.iterdir()))
        require_empty(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        rename_folder(folder, out)
    compared = (
        "not compared with JAX, for torch and timm cannot be imported here"
        if difference is None
        else f"largest difference from JAX on {len(images)} {kind}: {difference:.2g} years"
    )
    log(f"{compared}\nwritten: {out}: {sizes}")
    return out


def _write(
    folder: Path, run: RunPath, form: ExportFormat, variables: Variables, config: ModelConfig, images: StoredImages
) -> Years | None:
    """Write the files of one format, and read them again for the ages of some images."""
    if form == "onnx":
        contract = (model_folder(run) / "model.json").read_text(encoding="utf-8")
        data = onnx_model(variables, config, find_trunk(config.arch), {"jaxage": json.dumps(json.loads(contract))})
        write_bytes(folder / "model.onnx", data)
        return run_onnx((folder / "model.onnx").read_bytes(), images)
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
    ages: Years | None, variables: Variables, config: ModelConfig, form: ExportFormat, images: StoredImages
) -> float | None:
    if ages is None:
        return None
    if form != "stablehlo":  # they compute in float32, whatever the model was trained with
        config = replace(config, dtype="float32")
    expected = np.asarray(estimate(variables, config, jnp.asarray(images))["age"])
    difference = float(np.abs(ages - expected).max())
    if not difference <= _TOLERANCE:
        raise UserError(f"the exported model differs from JAX by {difference:.3g} years: nothing was written")
    return difference


def _test_images(run: RunPath, config: ModelConfig) -> tuple[StoredImages, str]:
    """Some test images of the run, or random ones if its data are not there any more."""
    try:
        settings = replace(read_config(Path(run)), image_size=config.image_size)
        dataset = load_data(settings, cache_folder(), contract=config.input())
        require_inputs(Path(run), {"data": dataset.sha256})
        return dataset.images[dataset.records.rows_of("test")[:_IMAGES]], "test images"
    except (UserError, OSError):
        shape = (_RANDOM, config.image_size, config.image_size, 3)
        random = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return random, "random images, as the data of the run are not there"
