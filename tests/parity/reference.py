"""The same networks in torch, run in float64: the authority, without rounding of its own."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.goldens.recipe import OUTPUTS, random_state

WANTED = "needs torch, torchvision and timm: install jaxage[parity]"


@dataclass(frozen=True)
class Reference:
    """stages: NHWC activations by torchvision's name. gradient: by the source's key. state: the one afterwards."""

    stages: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]
    state: dict[str, np.ndarray]


def import_torchvision() -> ModuleType:
    """torchvision, or a skip. PyPI's torchvision is built for CUDA and finds no operators of its own beside a CPU
    torch, yet registers two of them while it is imported: their schemas are enough, for nothing here calls them.
    """
    torch = pytest.importorskip("torch", reason=WANTED)
    try:
        return pytest.importorskip("torchvision", reason=WANTED)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return pytest.importorskip("torchvision", reason=WANTED)


_KEPT: list[Any] = []
"""A library's schemas vanish with it."""


def build(arch: str, source: str) -> Any:
    """The network of `source` ("torchvision", "timm") with the recipe's weights, float32, without dropout."""
    models = import_torchvision().models
    import torch

    if source == "torchvision":
        module = getattr(models, arch)(num_classes=OUTPUTS, **({"dropout": 0.0} if arch == "mobilenet_v2" else {}))
    else:
        timm = pytest.importorskip("timm", reason=WANTED)
        name = {"resnet18": "resnet18", "mobilenet_v2": "mobilenetv2_100"}[arch]
        module = timm.create_model(name, num_classes=OUTPUTS)
    state = random_state({key: tuple(value.shape) for key, value in module.state_dict().items()})
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    return module


def state_of(module: Any) -> dict[str, np.ndarray]:
    """Its state dict in numpy."""
    return {key: value.numpy().copy() for key, value in module.state_dict().items()}


def taps(arch: str, source: str) -> dict[str, str]:
    """For each of our stages the source's module whose output it is."""
    if arch.startswith("resnet"):
        pool = {"torchvision": "avgpool", "timm": "global_pool"}[source]
        layers = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
        return {layer: layer for layer in layers} | {"avgpool": pool}
    if source == "torchvision":
        return {f"features.{i}": f"features.{i}" for i in range(19)} | {
            "avgpool": "classifier.0",
            "classifier": "classifier",
        }
    blocks = [f"blocks.{stage}.{i}" for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(count)]
    trunk = {f"features.{i}": name for i, name in enumerate(["bn1", *blocks, "bn2"])}
    return trunk | {"avgpool": "global_pool", "classifier": "classifier"}


def run(module: Any, hooks: dict[str, str], images: np.ndarray, targets: np.ndarray, train: bool) -> Reference:
    """One forward and backward pass in float64 of the mean square difference from `targets`; `module` is changed."""
    import torch

    torch.set_num_threads(1)  # float64 convolutions wait for each other: 150 times slower beside another busy process
    module = module.double().train(train)
    stages: dict[str, np.ndarray] = {}
    handles = [module.get_submodule(name).register_forward_hook(_keep(stages, stage)) for stage, name in hooks.items()]
    logits = module(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float64)))
    torch.square(logits - torch.from_numpy(targets)).mean().backward()
    for handle in handles:
        handle.remove()
    gradient = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    return Reference(stages, gradient, state_of(module))


def _keep(stages: dict[str, np.ndarray], stage: str) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        value = output.detach().numpy()
        if value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        stages[stage] = (value.reshape(len(value), -1) if stage == "avgpool" else value).copy()

    return hook
