"""What the programs for a GPU hold, lowered for CUDA without one: convolutions, dtypes, no detour by the host."""

import re
from collections import Counter

import jax
import pytest

from jaxage.commands.benchmark.abstract import Case, abstract_programs
from jaxage.types import Arch
from jaxage.utils.sharding import make_mesh

FORWARD = {"resnet18": 20, "mobilenet_v2": 35}
"""Convolutions of a prediction. MobileNetV2's 17 depthwise ones are sums of shifted maps."""


def lowered(arch: Arch, trainable: str, name: str) -> str:
    case = Case(arch, trainable, 64, "bfloat16")
    program = abstract_programs(case, 224, make_mesh(jax.devices()[:1]), "gpu")[name]
    return program.function.trace(*program.arguments).lower(lowering_platforms=("cuda",)).as_text()


def check(text: str, convolutions: int, grouped: int) -> None:
    found = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(found) == convolutions
    types = Counter(kind for line in found for kind in re.findall(r"tensor<[\dx]+x(\w+)>", line))
    assert set(types) == {"bf16"}
    groups = [line for line in found if not re.search(r"batch_group_count = 1 .*feature_group_count = 1 ", line)]
    assert len(groups) == grouped
    calls = set(re.findall(r"custom_call @([\w.]+)", text)) - {"Sharding", "annotate_device_placement"}
    assert not calls, "a callback, or an operation that XLA cannot fuse"
    maps = re.findall(r"stablehlo.transpose .*: \(tensor<(\d+x\d+x\d+x\d+)x\w+>\)", text)
    assert all(shape.count("x") == 3 and int(shape.split("x")[0]) <= 11 for shape in maps), "a map is transposed"
    assert "stablehlo.select_and_scatter" not in text, "adds in an order that is not fixed"


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_a_prediction(arch: Arch) -> None:
    check(lowered(arch, "all", "predict"), FORWARD[arch], 0)


@pytest.mark.parametrize(
    ("arch", "trainable", "backward", "grouped"),
    [
        ("mobilenet_v2", "classifier", 0, 0),
        ("mobilenet_v2", "all", 35 + 34 + 17, 17),
        ("resnet18", "fc", 0, 0),
        ("resnet18", "fc,layer4", 8, 0),
        ("resnet18", "fc,layer4,layer3", 18, 0),
        ("resnet18", "fc,layer4,layer3,layer2", 28, 0),
        ("resnet18", "fc,layer4,layer3,layer2,layer1", 37, 0),
        ("resnet18", "all", 39, 0),
    ],
)
def test_a_step_convolves_backward_for_what_learns_only(
    arch: Arch, trainable: str, backward: int, grouped: int
) -> None:
    check(lowered(arch, trainable, "step"), FORWARD[arch] + backward, grouped)
