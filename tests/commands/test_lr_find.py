import csv
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxage.commands.lr_find import growth, lr_find, suggest_lr
from jaxage.config import TrainConfig
from jaxage.training.checkpoint import open_checkpoints
from jaxage.types import UserError
from tests.faces import write_faces


def test_the_rate_grows_by_the_same_factor() -> None:
    rates = [float(growth(7)(step)) for step in range(7)]
    np.testing.assert_allclose(rates, np.logspace(-6, 0, 7), rtol=1e-6)


def test_a_tenth_of_the_rate_of_the_least_loss() -> None:
    rate = np.logspace(-6, 0, 121)
    noise = np.random.default_rng(0).normal(0, 0.02, 121)
    loss = (np.log10(rate) + 3) ** 2 / 9 + noise  # least at 1e-3; smoothing lags a little behind
    test = suggest_lr(rate, loss)
    assert test.suggestion is not None
    assert 1e-4 <= test.suggestion <= 1e-3
    assert test.smooth[0] == loss[0]


def test_no_rate_is_suggested_if_the_loss_only_grows() -> None:
    assert suggest_lr(np.logspace(-6, 0, 50), np.arange(50.0)).suggestion is None


@pytest.fixture(scope="module")
def config(own_cache: None, tiny: None, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    data = write_faces(tmp_path_factory.mktemp("data"))
    return TrainConfig(
        arch="tiny", data=data, trainable="fc", weights="random", image_size=32, batch_size=12, loss="mse"
    )


def rows(folder: Path) -> list[list[str]]:
    with (folder / "lr-find.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_stopped_and_resumed_it_ends_with_the_same(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    whole = lr_find(replace(config, out=tmp_path / "whole"), 60, said.append)
    assert 50 < len(whole.rate) <= 60
    assert len(rows(tmp_path / "whole")) == 1 + len(whole.rate)
    with Image.open(tmp_path / "whole" / "lr-find.png") as image:
        assert image.width == 1350
    assert "60 steps" in said[-1] or "steps, rates up to" in said[-1]

    module = importlib.import_module("jaxage.commands.lr_find")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "suggest_lr", stop)
        patch.setattr(module, "_SAVE_EVERY", 1)
        with pytest.raises(KeyboardInterrupt):
            lr_find(replace(config, out=tmp_path / "cut"), 60, lambda _: None)
    assert open_checkpoints(tmp_path / "cut" / "checkpoints").latest_step() is None

    steps = 0

    def late(rate: Any, loss: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 52:
            raise KeyboardInterrupt
        return suggest_lr(rate, loss)

    with monkeypatch.context() as patch:
        patch.setattr(module, "suggest_lr", late)
        with pytest.raises(KeyboardInterrupt):
            lr_find(replace(config, out=tmp_path / "cut", resume=True), 60, lambda _: None)
    lr_find(replace(config, out=tmp_path / "cut", resume=True), 60, said.append)
    assert "resuming at step 50" in said
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_other_steps_do_not_resume(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a second test without --out: it has a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        lr_find(config, 10, lambda _: None)
    assert len(list(tmp_path.glob("runs/lr-find-tiny-fc-*/lr-find.png"))) == 2
    (tmp_path / "runs").rename(tmp_path / "before")
    next((tmp_path / "before").iterdir()).rename(tmp_path / "run")
    with pytest.raises(UserError, match="steps was 10, is 12"):
        lr_find(replace(config, out=tmp_path / "run", resume=True), 12, lambda _: None)
    for setting, steps in (({"solver": "ridge"}, 10), ({"unfreeze": "fc@0"}, 10), ({}, 9)):
        with pytest.raises(UserError, match="lr-find needs"):
            lr_find(replace(config, **setting), steps)
