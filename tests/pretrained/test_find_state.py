import re
from typing import Any

import pytest

from jaxage.pretrained.find_state import ConversionError, DictPath, FoundState, find_state
from tests.pretrained.state import torch_state

RESNET = {key: value.shape for key, value in torch_state("resnet18").items()}
MOBILE = {key: value.shape for key, value in torch_state("mobilenet_v2").items()}
TRUNK = {key: shape for key, shape in RESNET.items() if not key.startswith("fc.")}

Shapes = dict[str, tuple[int, ...]]


def find(shapes: Shapes, path: DictPath = (), arch: str = "resnet18") -> FoundState:
    return find_state({path: shapes}, arch)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module.", "net.encoder.0.", "backbone.body."])
@pytest.mark.parametrize("path", [(), ("state_dict",), ("who", "knows", "where")])
def test_any_entry_and_any_prefix(prefix: str, path: DictPath) -> None:
    found = find({prefix + key: shape for key, shape in RESNET.items()}, path)
    assert found.path == path
    assert found.keys["layer4.1.bn2.running_var"] == f"{prefix}layer4.1.bn2.running_var"
    assert set(found.keys) == {key for key in RESNET if not key.endswith("num_batches_tracked")}
    assert len(found.notes) == bool(prefix) + bool(path)
    assert all(f"'{word}'" in " ".join(found.notes) for word in (prefix, ".".join(path)) if word)


HEADS: dict[str, Shapes] = {
    "none": {},
    "Sequential": {"fc.1.weight": (1, 512), "fc.1.bias": (1,)},
    "no bias": {"fc.weight": (1, 512)},
    "CORAL": {"fc.weight": (1, 512), "linear_1_bias": (99,)},
    "another width": {"fc.weight": (1, 2048), "fc.bias": (1,)},
    "another name": {"head.weight": (1, 512), "head.bias": (1,)},
    "a loss beside it": {"criterion.weight": (101,), "train_mae.total": ()},
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_trunk_is_taken_whatever_its_head(head: Shapes) -> None:
    found = find(TRUNK | head)
    assert not [key for key in found.keys if key.startswith("fc")]
    assert len(found.keys) == 100
    assert all(key in " ".join(found.notes) for key in list(head)[:3])
    assert bool(found.notes) == bool(head)


def test_children_by_their_numbers() -> None:
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    shapes = {f"f.{numbers[key.split('.')[0]]}.{key.partition('.')[2]}": shape for key, shape in TRUNK.items()}
    assert find(shapes).keys["7.1.conv2.weight"] == "f.7.1.conv2.weight"


def test_of_several_entries_the_usual_one_is_taken_and_said() -> None:
    found = find_state({("ema",): RESNET, ("model",): RESNET, ("a", "b"): RESNET, ("opt",): {"x": (3,)}}, "resnet18")
    assert found.path == ("model",)
    assert found.notes == ("taken from its entry 'model', not from 'a.b' or 'ema'",)


def wrong(changes: dict[str, Any]) -> Shapes:
    return {key: shape for key, shape in (RESNET | changes).items() if shape is not None}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {f"{side}.{key}": shape for side in ("student", "teacher") for key, shape in RESNET.items()},
            "it holds 2 networks of this kind, under 'student.' and 'teacher.': save the one to use alone",
        ),
        (MOBILE, "no resnet18: its keys are 'features.0.* they are those of mobilenet_v2: choose that network"),
        (wrong({"layer1.0.conv1.weight": None}), r"and 118 more\n  missing: layer1.0.conv1.weight$"),
        (wrong({"layer2.0.conv1.weight": (128, 64, 5, 5)}), r"shape: layer2.0.conv1.weight is \(128, 64, 5, 5\), exp"),
        (wrong({"layer2.0.se.fc.weight": (8, 128)}), r"unused: layer2.0.se.fc.weight \(8, 128\)"),
        ({"embeddings.weight": (3, 4)}, "its keys are 'embeddings.weight'; none ends like those of resnet18"),
        ({}, "no resnet18: its keys are ;"),
    ],
)
def test_what_is_not_the_network_is_told_by_its_own_keys(shapes: Shapes, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        find(shapes)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) < 15
