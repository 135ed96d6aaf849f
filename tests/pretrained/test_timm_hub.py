import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from jaxage.pretrained.convert import to_flax
from jaxage.pretrained.load import find_input, find_weights
from jaxage.types import InputContract, UserError
from jaxage.utils.trees import flatten
from tests.hub_server import Hub, Repo, hub_server
from tests.pretrained.state import torch_state

STATE = torch_state("resnet18")
NAME = "timm:resnet18.fb_swsl_ig1b_ft_in1k"
CONFIG: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
    },
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server(monkeypatch, tmp_path / "cache") as server:
        yield server


def publish(hub: Hub, config: Any = CONFIG, name: str = "timm/resnet18.fb_swsl_ig1b_ft_in1k", **files: bytes) -> None:
    hub.repos[name] = Repo(private=False)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    hub.repos[name].commit({"config.json": text, "model.safetensors": save(STATE)} | files)


def test_weights_and_contract_of_a_checkpoint(hub: Hub) -> None:
    publish(hub, **{"pytorch_model.bin": b"not asked for"})
    contract = InputContract((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bicubic", 1.0)
    assert find_input(NAME, "resnet18") == contract
    found = find_weights(NAME, "resnet18")
    assert (found.tag, found.input, found.notes) == (NAME, contract, ())
    for name, value in flatten(to_flax(STATE, "resnet18").variables).items():
        np.testing.assert_array_equal(flatten(found.variables)[name], value, err_msg=name)
    assert not any("pytorch_model" in path for path in hub.paths("GET"))
    hub.fail = 503
    assert find_weights(NAME, "resnet18").sha256 == found.sha256, "what is in the cache needs no Hub"


def test_a_checkpoint_of_somebody_else(hub: Hub) -> None:
    publish(hub, CONFIG["pretrained_cfg"] | {"architecture": "resnet18"}, "alice/faces")
    assert find_input("timm:alice/faces", "resnet18").mean == (0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    ("config", "arch", "message"),
    [
        (CONFIG, "mobilenet_v2", "is a resnet18, not a mobilenet_v2: choose the network resnet18"),
        (CONFIG | {"architecture": "mobilenetv2_100"}, "resnet18", "not a resnet18: choose the network mobilenet_v2"),
        (
            CONFIG | {"architecture": "vit_base"},
            "resnet18",
            "a vit_base, not a resnet18, which jaxage does not have",
        ),
        (b"{", "resnet18", "its config.json is not JSON"),
        ({}, "resnet18", "its config.json names no architecture"),
        (CONFIG | {"pretrained_cfg": {}}, "resnet18", "mean must be three numbers, got None"),
    ],
)
def test_checkpoints_that_do_not_fit(config: Any, arch: str, message: str, hub: Hub) -> None:
    publish(hub, config)
    with pytest.raises(UserError, match=message) as caught:
        find_weights(NAME, arch)
    assert NAME in str(caught.value)


def test_a_checkpoint_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(UserError, match="there is no such model"):
        find_weights(NAME, "resnet18")
    hub.repos["timm/old"] = Repo(private=False)
    hub.repos["timm/old"].commit({"config.json": json.dumps(CONFIG).encode(), "pytorch_model.bin": b""})
    with pytest.raises(UserError, match=r"is no checkpoint of timm with config\.json and model\.safetensors"):
        find_weights("timm:old", "resnet18")
    hub.fail = 503
    with pytest.raises(UserError, match=r"answers 503: try again later|does not answer"):
        find_weights("timm:resnet18.other", "resnet18")
