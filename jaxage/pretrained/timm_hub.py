"""Checkpoints of timm on the Hugging Face Hub: `timm:resnet18.a1_in1k` is the model `timm/resnet18.a1_in1k` there."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from jaxage.models.registry import MODELS
from jaxage.pretrained.hub import HubModel, download
from jaxage.pretrained.keymap import TIMM_NAMES
from jaxage.pretrained.manifest import parse_input
from jaxage.types import Arch, InputContract, UserError

_PREFIX = "timm:"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_ABSENT = f"is no checkpoint of timm with {_CONFIG} and {_WEIGHTS}: choose another one of the network"
_OUR_NAMES = {theirs: ours for ours, theirs in TIMM_NAMES.items()}


class TimmCheckpoint(NamedTuple):
    """weights: the safetensors file. input: what the weights expect of an image."""

    weights: Path
    input: InputContract


def is_timm(weights: str | Path) -> bool:
    """Whether a name of weights is that of a checkpoint of timm."""
    return str(weights).startswith(_PREFIX)


def read_timm(weights: str, arch: Arch) -> TimmCheckpoint:
    """Download a checkpoint of timm, unless it is in the cache of huggingface_hub.

    Mean, standard deviation and interpolation are those of its config. The crop is 1.0, the whole square: faces keep
    their margin (see `parse_input`).

    Args:
        weights: "timm:NAME", or "timm:OWNER/NAME" for a model of somebody else.
        arch: The network.

    Raises:
        UserError: if the checkpoint is not there, is that of another network, or has no such config, if the Hub does
            not answer, and if the extra `hub` is missing.
    """
    name = weights.removeprefix(_PREFIX)
    model = HubModel(name if "/" in name else f"timm/{name}", None)
    folder = download(model, (_CONFIG, _WEIGHTS), (), f"({weights}) {_ABSENT}")
    config = _read_config(folder / _CONFIG, weights)
    found = _OUR_NAMES.get(config["architecture"], config["architecture"])
    if found != arch:
        known = f": choose the network {found}" if found in MODELS else ", which jaxage does not have"
        raise UserError(f"{weights} is a {config['architecture']}, not a {arch}{known}")
    about: Any = config.get("pretrained_cfg", config)
    fields = {key: about.get(key) for key in ("mean", "std", "interpolation")}
    return TimmCheckpoint(folder / _WEIGHTS, parse_input(fields | {"crop": 1.0}, f"{weights}: its {_CONFIG}"))


def _read_config(path: Path, weights: str) -> dict[str, Any]:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{weights}: its {_CONFIG} is not JSON ({error}): choose another checkpoint") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise UserError(f"{weights}: its {_CONFIG} names no architecture: choose another checkpoint")
    return config
