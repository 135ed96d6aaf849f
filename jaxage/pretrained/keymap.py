"""The names that other libraries give to the modules of a network, which here have torchvision's names."""

from typing import Any

from jaxage.types import Arch

Table = dict[str, str]
"""From the name of each module that has parameters to its name in a state dict."""

TIMM_NAMES = {"mobilenet_v2": "mobilenetv2_100"}
"""What timm calls the networks that have another name there."""

_RESNET_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7", "fc": "9"}
_BLOCKS_OF_TIMM_STAGE = (1, 2, 3, 4, 3, 3, 1)


def tables(arch: Arch, modules: list[str]) -> dict[str, Table]:
    """The known layouts of a network's state dict.

    Args:
        arch: The network.
        modules: torchvision's names of the modules that directly have parameters.

    Returns:
        A table for each layout, by the layout's name.
    """
    known = {"torchvision": {module: module for module in modules}}
    if arch.startswith("resnet"):
        known["torchvision, numbered children"] = {module: _numbered(module) for module in modules}
    if arch == "mobilenet_v2":
        known["torchvision, flat blocks"] = {module: _flat(module) for module in modules}
        known["timm"] = {module: _timm(module) for module in modules}
    return known


def _numbered(module: str) -> str:
    """The children in their order, as `nn.Sequential(*resnet.children())` names them; ReLU and pooling count."""
    first, dot, rest = module.partition(".")
    return _RESNET_CHILDREN[first] + dot + rest


def _flat(module: str) -> str:
    """Each block is one flat sequence that counts ReLU6, as in torchvision before `ConvBNReLU`."""
    match module.split("."):
        case ["features", block, "conv", *inner]:
            return f"features.{block}.conv.{_position(int(block), inner, steps=(0, 1, 3, 4, 6, 7))}"
        case _:
            return module


def _timm(module: str) -> str:
    match module.split("."):
        case ["features", "0", part]:
            return ("conv_stem", "bn1")[int(part)]
        case ["features", "18", part]:
            return ("conv_head", "bn2")[int(part)]
        case ["features", block, "conv", *inner]:
            first = ("conv_dw", "bn1", "conv_pw", "bn2")
            names = first if block == "1" else ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            return f"blocks.{_timm_block(int(block) - 1)}.{_position(int(block), inner, steps=names)}"
        case ["classifier", "1"]:
            return "classifier"
        case _:
            return module


def _timm_block(index: int) -> str:
    for stage, blocks in enumerate(_BLOCKS_OF_TIMM_STAGE):
        if index < blocks:
            return f"{stage}.{index}"
        index -= blocks
    raise ValueError("MobileNetV2 has 17 blocks")


def _position(block: int, inner: list[str], steps: tuple[Any, ...]) -> Any:
    """The step of a module in its block: pairs of convolution and norm, then the projection and its norm."""
    units = 1 if block == 1 else 2
    numbers = [int(part) for part in inner]
    return steps[2 * numbers[0] + numbers[1] if len(numbers) == 2 else units + numbers[0]]
