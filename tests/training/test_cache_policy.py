"""TrainInputs from features is learning from images: after an epoch of the same views, the predictions are the same."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxage.config import TrainConfig
from jaxage.data.dataset import load_dataset
from jaxage.data.loader import make_loader
from jaxage.data.sampler import epoch_batches
from jaxage.losses import make_objective
from jaxage.models.registry import create_model
from jaxage.pretrained.load import merge
from jaxage.training.cache_policy import choose_inputs
from jaxage.training.feature_cache import Prefix, TrainInputs
from jaxage.training.freeze import first_trainable_block, label_tree, parse_trainable, train_bn_modules
from jaxage.training.predictor import predict_rows
from jaxage.training.state import init_state
from jaxage.training.step import make_predict_step, make_train_step
from jaxage.types import Arch
from jaxage.utils.sharding import make_mesh, replicate
from tests.faces import write_faces
from tests.models.test_goldens import variables as golden_variables
from tests.test_features import AGES, TRAIN, prefix

CUTS = [
    ("resnet18", "fc", "fc"),
    ("resnet18", "fc,layer4.1", "layer4.1"),
    ("mobilenet_v2", "classifier,features.18", "features.18"),
]


@pytest.mark.parametrize(("arch", "trainable", "start"), CUTS)
def test_cached_and_uncached_agree(arch: Arch, trainable: str, start: str, tmp_path: Path) -> None:
    data = load_dataset(write_faces(tmp_path, n=40), 32, cache=tmp_path / "cache")
    mesh = make_mesh()
    model, objective = create_model(arch), make_objective("huber", 40.0, 20.0)
    variables = merge(model.init(jax.random.key(0)), golden_variables(arch), model.spec.head)
    groups = parse_trainable(trainable, variables["params"])
    labels = label_tree(variables["params"], groups)
    train_bn = train_bn_modules(variables["batch_stats"], labels, "eval")
    assert first_trainable_block(model.spec.units, labels, train_bn) == start
    channels = ((0.5,) * 3, (0.25,) * 3)
    rows = data.records.rows_of("train")
    loader = make_loader(data.images, data.records.age, mesh, math.inf)
    p = Prefix(model, replicate(variables, mesh), channels, start, loader, rows, views=3, flip=True, seed=0)
    results = []
    for place in ("off", "host"):
        learning = choose_inputs(TrainConfig(cache_features=place), p, 0, "data", tmp_path, lambda _: None)
        assert learning.place == place
        optimizer = optax.sgd(0.01)  # Adam's first steps are as long for a gradient that is all rounding
        step = make_train_step(
            model, objective, optimizer, labels, train_bn, learning.source, average_decay=0.9, seed=0, mesh=mesh
        )
        state = replicate(init_state(variables, optimizer), mesh)
        order = epoch_batches(learning.view_rows, 0, 1, 8)
        for _ in range(len(order.rows)):
            state, _ = step(state, learning.loader.items, learning.loader.ages, jax.device_get(order))
        predict = make_predict_step(model, objective, learning.source, mesh)
        results.append(predict_rows(predict, state.average, learning.loader, learning.eval_rows, 16))
    moved = np.abs(
        results[0] - predict_rows(predict, replicate(variables, mesh), learning.loader, learning.eval_rows, 16)
    )
    assert moved.max() > 1
    tested = np.setdiff1d(np.arange(40), rows)
    np.testing.assert_allclose(results[1][tested], results[0][tested], rtol=1e-5, atol=1e-4)


def choose(tmp_path: Path, **settings: Any) -> tuple[TrainInputs, str]:
    said: list[str] = []
    config = TrainConfig(**settings)
    p = prefix(start=settings.pop("start", "fc"), views=config.views)
    learning = choose_inputs(config, p, config.epochs * 60 + 30, "data", tmp_path, said.append)
    return learning, "\n".join(said)


def test_a_head_learns_from_features_and_says_why(tmp_path: Path) -> None:
    learning, said = choose(tmp_path)
    assert "frozen layers, before fc: computed once, kept" in said
    assert "save about" in said
    assert learning.view_rows.shape == (len(TRAIN), 2)


def test_a_file_is_found_by_a_later_run(tmp_path: Path) -> None:
    first, _ = choose(tmp_path, cache_features="disk")
    again, said = choose(tmp_path)
    assert "found" in said
    np.testing.assert_array_equal(np.asarray(first.loader.items), np.asarray(again.loader.items))
    assert len(list((tmp_path / "features").iterdir())) == 1


@pytest.mark.parametrize(("place", "resident"), [("device", True), ("host", False), ("disk", True)])
def test_the_place_is_as_asked(tmp_path: Path, place: Any, resident: bool) -> None:
    learning, _ = choose(tmp_path, cache_features=place)
    assert learning.loader.resident is resident
    assert learning.place == place
    assert learning.view_rows.shape[1] == 2
    assert any((tmp_path / "features").iterdir()) is (place == "disk")
    np.testing.assert_array_equal(np.asarray(learning.loader.ages), [*AGES, *AGES[TRAIN]])


def test_images_augmented_anew_are_not_kept(tmp_path: Path) -> None:
    learning, said = choose(tmp_path, augment=True)
    assert learning.place == "off"
    assert "augments its images anew" in said


def test_off_and_a_single_epoch_learn_from_images(tmp_path: Path) -> None:
    for settings in ({"cache_features": "off"}, {"epochs": 1}):
        learning, said = choose(tmp_path, **settings)
        assert learning.loader.items.dtype == np.uint8
        assert learning.place == "off"
        assert learning.view_rows.tolist() == [[row, row] for row in TRAIN]
    assert "looks at 90 images" in said
