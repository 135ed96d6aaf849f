"""Options that contradict each other are refused before data are read; any others train to the end together."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxage.commands.train import train
from jaxage.config import TrainConfig
from jaxage.training.setup import check_settings
from jaxage.types import UserError
from tests.faces import write_faces

VALUES: dict[str, tuple[Any, ...]] = {
    "trainable": ("fc",),
    "frozen_bn": ("train",),
    "dtype": ("bfloat16",),
    "loss": ("mse",),
    "solver": ("ridge",),
    "views": (4,),
    "augment": (True,),
    "unfreeze": ("layer4@0.5,bn4@0.7",),
    "balance": (0.5,),
    "flip": (False,),
    "cache_features": ("off", "device", "disk"),
    "memory_budget": (0.0,),
}
Options = dict[str, Any]

BASE: Options = {
    "arch": "tiny",
    "trainable": "fc,layer4,bn4",
    "weights": "random",
    "image_size": 32,
    "epochs": 1,
    "batch_size": 12,
}

pytestmark = pytest.mark.usefixtures("own_cache", "tiny")


def config(options: Options, **more: Any) -> TrainConfig:
    return TrainConfig(**(BASE | options | more))


def refused(options: Options) -> bool:
    try:
        check_settings(config(options))
    except UserError:
        return True
    return False


def pairs() -> list[Options]:
    """Every two options of different names, and what one of them needs to mean anything."""
    chosen = [
        {name: value, other: different}
        for name, other in combinations(VALUES, 2)
        for value, different in product(VALUES[name], VALUES[other])
    ]
    return [({"loss": "mse", "trainable": "fc"} if "solver" in pair else {}) | pair for pair in chosen]


def packed(wanted: list[Options]) -> list[Options]:
    """Few runs in which all of these pairs occur."""
    runs: list[Options] = []
    for pair in wanted:
        for run in runs:
            if all(run.get(name, value) == value for name, value in pair.items()) and not refused(run | pair):
                run |= pair
                break
        else:
            runs.append(dict(pair))
    return runs


def predicted(predictions: Any, *_: Any) -> tuple[Options, None]:
    """In place of the whole test, whose bootstrap and pictures do not depend on the options."""
    return {"test": predictions["test"].age}, None


def test_every_pair_of_options_trains_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxage.commands.train._test", predicted)
    for name in ("_write_results", "results_table"):
        monkeypatch.setattr(f"jaxage.commands.train.{name}", lambda *_: "")
    data = write_faces(tmp_path / "data", n=40)
    accepted = [pair for pair in pairs() if not refused(pair)]
    assert 60 < len(accepted) < len(pairs()) - 10
    runs = packed(accepted)
    assert len(runs) < 30
    for number, options in enumerate(runs):
        report = train(config(options, data=data, out=tmp_path / str(number)), log=lambda _: None)
        assert np.isfinite(report["test"]).all(), options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "ridge", "loss": "mse", "augment": True}, r"--solver ridge .* no --augment"),
        ({"solver": "ridge", "loss": "mse", "balance": 0.5}, r"--solver ridge .* no --balance"),
        ({"solver": "ridge", "loss": "mse", "frozen_bn": "train"}, r"--solver ridge .* --frozen-bn eval"),
        ({"solver": "ridge", "loss": "mse", "trainable": "fc,layer4"}, r"--solver ridge .* --trainable fc"),
        ({"solver": "ridge", "loss": "dldl"}, r"--solver ridge .* --loss mse"),
        ({"solver": "ridge", "loss": "mse", "cache_features": "off"}, r"--solver ridge .* no --cache-features off"),
        ({"augment": True, "cache_features": "host"}, r"--augment draws images anew .* --cache-features host"),
        ({"augment": True, "views": 4}, r"--augment draws images anew .* --views 4"),
        ({"cache_features": "disk", "frozen_bn": "train"}, r"--cache-features disk .* there are none"),
        ({"unfreeze": "layer4@0.5"}, r"--unfreeze names 'layer4'"),
        ({"batch_size": 1, "trainable": "all", "image_size": 32}, r"more than one value per channel"),
        ({"weights": "imagenet1k_v9"}, r"imagenet1k_v9"),
        ({"arch": "resnet5"}, r"did you mean 'resnet50'"),
        ({"loss": "hubert"}, r"did you mean 'huber'"),
    ],
)
def test_what_contradicts_is_named_before_data_are_read(
    options: Options, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxage.commands.train.load_data", lambda *_: pytest.fail("data were read"))
    asked = {"arch": "resnet18", "trainable": "fc"} | options
    with pytest.raises(UserError, match=words):
        train(config(asked), log=lambda _: None)
    assert not list(tmp_path.iterdir())
