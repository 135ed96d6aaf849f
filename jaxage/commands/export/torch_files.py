"""Files that torch users load: timm by `local-dir:FOLDER`, torchvision by `load_state_dict`."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from safetensors.numpy import save

from jaxage.models.registry import create_model
from jaxage.pretrained.convert import to_torch
from jaxage.pretrained.keymap import TIMM_NAMES, tables
from jaxage.training.export import ModelConfig
from jaxage.types import Json, UserError, Variables
from jaxage.utils.trees import flatten


def torch_files(variables: Variables, config: ModelConfig) -> dict[str, bytes | Json]:
    """The files by name: `config.json` and `model.safetensors` in timm's layout, and `torchvision.safetensors` where
    torchvision's names are others.

    Raises UserError for a network that timm does not have.
    """
    if config.arch not in ("resnet18", "resnet34", "resnet50", *TIMM_NAMES):
        raise UserError(f"{config.arch}: neither timm nor torchvision has it; export to stablehlo")
    modules = sorted({name.split(".", 1)[1].rsplit(".", 1)[0] for name in flatten(variables)})
    table = tables(config.arch, modules).get("timm")
    files: dict[str, bytes | Json] = {"config.json": _timm_config(config)}
    files["model.safetensors"] = save(to_torch(variables, table), {"format": "pt"})
    if table is not None:
        files["torchvision.safetensors"] = save(to_torch(variables), {"format": "pt"})
    return files


def _timm_config(config: ModelConfig) -> Json:
    head = create_model(config.arch).spec.head
    outputs = config.objective().outputs
    return {
        "architecture": TIMM_NAMES.get(config.arch, config.arch),
        "num_classes": outputs,
        "pretrained_cfg": {
            "num_classes": outputs,
            "input_size": [3, config.image_size, config.image_size],
            "fixed_input_size": False,
            "interpolation": config.interpolation,
            "crop_pct": config.crop,
            "crop_mode": "center",
            "mean": list(config.mean),
            "std": list(config.std),
            "first_conv": "conv_stem" if config.arch in TIMM_NAMES else "conv1",
            "classifier": head,
        },
    }


def run_torch(
    folder: Path, config: ModelConfig, images: UInt8[np.ndarray, "n size size 3"]
) -> Float[np.ndarray, " n"] | None:
    """Ages by timm from the written folder; None where torch and timm cannot be imported."""
    try:
        import timm
        import torch
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision that does not fit torch
        return None

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    mean, std = (np.array(values, np.float32) for values in (config.mean, config.std))
    x = (images.astype(np.float32) / 255 - mean[None, None, None]) / std[None, None, None]
    views = [x, x[:, :, ::-1]][: 1 + config.flip]
    objective = config.objective()
    with torch.no_grad():
        logits = [model(torch.from_numpy(np.ascontiguousarray(v.transpose(0, 3, 1, 2)))).numpy() for v in views]
    return np.mean([np.asarray(objective.predict(jnp.asarray(each))) for each in logits], axis=0)
