import json
from pathlib import Path
from typing import Any

import pytest

from jaxage.config import TrainConfig, cache_folder, from_json, to_json
from jaxage.types import UserError


def test_json_round_trip() -> None:
    config = TrainConfig(
        arch="mobilenet_v2", trainable="classifier", data=Path("a/b.csv"), out=Path("o"), image_size=96
    )
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": -1}, "--batch-size"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"warmup": 1.0}, "--warmup"),
        ({"ema": -0.1}, "--ema"),
        ({"max_bad": 1.5}, "--max-bad"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"image_size": 16}, "--image-size"),
        ({"clip": 0.0}, "--clip"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(fields: dict[str, Any], option: str) -> None:
    with pytest.raises(UserError, match=option):
        TrainConfig(**fields)


def test_a_user_without_a_home_is_told_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(name: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("jaxage.config.user_cache_path", homeless)
    monkeypatch.delenv("JAXAGE_CACHE", raising=False)
    with pytest.raises(UserError, match=r"this user has no home folder .*: set JAXAGE_CACHE to a folder"):
        cache_folder()
    monkeypatch.setenv("JAXAGE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
