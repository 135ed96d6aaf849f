from typing import Any

import numpy as np
import pytest

from jaxage.models.registry import MODELS
from jaxage.pretrained.convert import ConversionError, to_flax, to_torch
from jaxage.pretrained.keymap import tables
from jaxage.types import Arch
from jaxage.utils.trees import flatten
from tests.pretrained.state import torch_state

ARCHS = ("resnet18", "resnet50", "mobilenet_v2")


@pytest.fixture(scope="module", params=ARCHS)
def arch(request: pytest.FixtureRequest) -> Arch:
    return request.param


@pytest.fixture
def state(arch: Arch) -> dict[str, np.ndarray]:
    return torch_state(arch)


def test_there_and_back_bit_by_bit(arch: Arch, state: dict[str, np.ndarray]) -> None:
    converted = to_flax(state, arch)
    back = to_torch(converted.variables)
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].tobytes() == value.tobytes(), key
        assert back[key].flags.c_contiguous, key
    again = flatten(to_flax(back, arch).variables)
    for name, value in flatten(converted.variables).items():
        assert again[name].tobytes() == value.tobytes(), name


def test_every_key_is_used_or_named_as_dropped(arch: Arch, state: dict[str, np.ndarray]) -> None:
    converted = to_flax(state, arch)
    assert set(converted.dropped) == {key for key in state if key.endswith("num_batches_tracked")}
    assert len(flatten(converted.variables)) + len(converted.dropped) == len(state)
    assert converted.layout == "torchvision"


def test_kernels_turn_and_vectors_stay() -> None:
    state = torch_state("resnet18")
    leaves = flatten(to_flax(state, "resnet18").variables)
    kernel, weight = leaves["params.layer2.0.downsample.0.kernel"], state["layer2.0.downsample.0.weight"]
    assert kernel.shape == (1, 1, 64, 128)
    assert kernel[0, 0, 5, 7] == weight[7, 5, 0, 0]
    assert leaves["params.conv1.kernel"][1, 2, 0, 9] == state["conv1.weight"][9, 0, 1, 2]
    assert leaves["params.fc.kernel"][11, 2] == state["fc.weight"][2, 11]
    np.testing.assert_array_equal(leaves["batch_stats.bn1.var"], state["bn1.running_var"])
    assert all(leaf.flags.c_contiguous and leaf.dtype == np.float32 for leaf in leaves.values())


@pytest.mark.parametrize("layout", ["torchvision, flat blocks", "timm"])
def test_other_layouts_are_recognised(layout: str) -> None:
    state = torch_state("mobilenet_v2")
    table = tables("mobilenet_v2", sorted({key.rsplit(".", 1)[0] for key in state}))[layout]
    renamed = {f"{table[key.rsplit('.', 1)[0]]}.{key.rsplit('.', 1)[1]}": value for key, value in state.items()}
    converted = to_flax(renamed, "mobilenet_v2")
    assert converted.layout == layout
    wanted = flatten(to_flax(state, "mobilenet_v2").variables)
    for name, value in flatten(converted.variables).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


def test_half_precision_becomes_float32(arch: Arch, state: dict[str, np.ndarray]) -> None:
    half = {key: value.astype(np.float16) if value.ndim == 4 else value for key, value in state.items()}
    leaves = flatten(to_flax(half, arch).variables)
    wanted = flatten(to_flax(state, arch).variables)
    for name, value in leaves.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, wanted[name], rtol=1e-3, atol=1e-6)


def test_a_source_without_head_has_none(arch: Arch, state: dict[str, np.ndarray]) -> None:
    head = MODELS[arch].head
    trunk = {key: value for key, value in state.items() if not key.startswith(head)}
    assert head not in to_flax(trunk, arch).variables["params"]
    half_a_head = trunk | {key: value for key, value in state.items() if key.startswith(head) and key.endswith("bias")}
    with pytest.raises(ConversionError, match=rf"missing: {head}.*weight"):
        to_flax(half_a_head, arch)


def test_the_head_may_be_of_any_width(arch: Arch) -> None:
    head = MODELS[arch].head
    leaves = flatten(to_flax(torch_state(arch, outputs=17), arch).variables)
    assert {leaf.shape[-1] for name, leaf in leaves.items() if name.startswith(f"params.{head}")} == {17}


def test_all_faults_come_in_one_error() -> None:
    state: dict[str, Any] = torch_state("resnet18")
    del state["layer1.0.conv1.weight"]
    state["layer9.0.conv1.weight"] = np.zeros((2, 2, 3, 3), np.float32)
    state["layer2.0.conv1.weight"] = np.zeros((128, 64, 5, 5), np.float32)
    state["bn1.weight"] = np.full(64, np.nan, np.float32)
    state["bn1.running_var"] = np.full(64, np.inf, np.float32)
    state["bn1.bias"] = np.zeros(64, np.int32)
    with pytest.raises(ConversionError) as error:
        to_flax(state, "resnet18")
    message = str(error.value)
    for words in (
        "not a state dict of resnet18 (read as torchvision's layout), 6 faults",
        "missing: layer1.0.conv1.weight (for params.layer1.0.conv1.kernel)",
        "unused: layer9.0.conv1.weight (2, 2, 3, 3)",
        "shape: layer2.0.conv1.weight is (128, 64, 5, 5)",
        "values: bn1.weight holds NaN or infinity",
        "values: bn1.running_var holds NaN or infinity",
        "dtype: bn1.bias is int32",
    ):
        assert words in message


def test_another_network_is_refused_in_a_message_of_readable_length() -> None:
    with pytest.raises(ConversionError, match=r"and \d+ more") as error:
        to_flax(torch_state("mobilenet_v2"), "resnet18")
    assert len(str(error.value).splitlines()) < 30


def test_wrapped_names_are_refused_with_their_names() -> None:
    wrapped = {f"module.{key}": value for key, value in torch_state("resnet18").items()}
    with pytest.raises(ConversionError, match="missing: bn1"):
        to_flax(wrapped, "resnet18")
