from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jaxage.data.load
from jaxage.config import TrainConfig
from jaxage.data.load import load_data
from jaxage.types import InputContract


def test_drawn_faces_go_the_way_of_real_ones_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxage.data.load, "DEMO_FACES", 100)
    said: list[str] = []
    config = TrainConfig(image_size=32, split="identity", seed=2)
    first = load_data(config, tmp_path, said.append)
    assert (first.name, first.split, len(first.records)) == ("synthetic", "identity", 100)
    assert first.images.shape == (100, 32, 32, 3)
    assert any(line.startswith("drawing") for line in said)
    assert any("face score" in line for line in said)
    monkeypatch.setattr(jaxage.data.load, "write_synthetic", lambda *_: pytest.fail("drawn again"))
    again = load_data(config, tmp_path, said.append)
    assert again.sha256 == first.sha256
    assert "prepared already" in said[-1]
    other = load_data(replace(config, split="random"), tmp_path, said.append, InputContract(crop=0.5))
    assert not np.array_equal(other.images, first.images)
    assert sorted(other.records.path) == sorted(first.records.path)


def test_two_demonstrations_at_once_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxage.data.load, "DEMO_FACES", 60)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: load_data(TrainConfig(image_size=32), tmp_path, lambda _: None), range(2))
    assert first.sha256 == second.sha256
