from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxage.training.export import ModelConfig, export_model
from jaxage.training.intervals import fit_intervals
from jaxage.types import Framing, Predictions
from tests.photos.pictures import album, drawn_faces


@pytest.fixture(scope="module")
def photo_model(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that gives distributions, with random weights; it knows how drawn faces are framed."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    guess = Predictions(rng.uniform(0, 80, 400).astype(np.float32), rng.dirichlet(np.ones(101), 400).astype(np.float32))
    intervals = fit_intervals(guess, rng.uniform(0, 80, 400).astype(np.float32))
    config = ModelConfig(
        "tiny", "dldl", 48, 40.0, 20.0, flip=True, framing=Framing(0.49, 0.62, 0.57), intervals=intervals
    )
    export_model(folder / "model", jax.device_get(config.model().init(jax.random.key(0))), config, "card")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group, a crop, a white image, a broken file."""
    folder = tmp_path_factory.mktemp("photos")
    album()[0].save(folder / "a group.png")
    Image.fromarray(drawn_faces(1)[0]).save(folder / "crop.png")
    Image.new("RGB", (200, 300), "white").save(folder / "white.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nonsense")
    return folder
