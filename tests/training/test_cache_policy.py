"""Training from features is training from images: after an epoch of the same views, the predictions are the same."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
import optax
import pytest
from hypothesis import given

from jaxage.config import TrainConfig
from jaxage.data.dataset import load_dataset
from jaxage.data.loader import make_loader
from jaxage.data.sampler import epoch_batches
from jaxage.losses import make_objective
from jaxage.models.registry import create_model
from jaxage.pretrained.load import merge
from jaxage.training.cache_policy import DISK_RATE, HOST_RATE, Costs, TrainInputs, choose_inputs, decide
from jaxage.training.feature_cache import FrozenTrunk
from jaxage.training.freeze import make_freeze_plan, parse_trainable
from jaxage.training.predictor import predict_rows
from jaxage.training.state import init_state
from jaxage.training.step import StepOptions, make_predict_step, make_train_step
from jaxage.training.view_index import ViewIndex
from jaxage.types import Arch, InputContract
from jaxage.utils.sharding import make_mesh, replicate
from tests.faces import write_faces
from tests.models.test_goldens import variables as golden_variables
from tests.training.test_feature_cache import AGES, TRAIN, trunk, view_index

GIB = 2**30

CUTS = [
    ("resnet18", "fc,layer4.1", "layer4.1"),
]


@pytest.mark.parametrize(("arch", "trainable", "start"), CUTS)
def test_cached_and_uncached_agree(arch: Arch, trainable: str, start: str, tmp_path: Path) -> None:
    data = load_dataset(write_faces(tmp_path, n=40), 32, cache=tmp_path / "cache")
    mesh = make_mesh()
    model, objective = create_model(arch), make_objective("huber", 40.0, 20.0)
    variables = merge(model.init(jax.random.key(0)), golden_variables(arch), model.spec.head)
    plan = make_freeze_plan(model, variables, parse_trainable(trainable, variables["params"]), "eval")
    assert plan.first_block == start
    contract = InputContract((0.5,) * 3, (0.25,) * 3)
    index = ViewIndex(len(data.records), data.records.rows_of("train"), views=3, flip=True)
    results = []
    for place in ("off", "host"):
        loader = make_loader(data.images, data.records.age, mesh, np.inf)
        t = FrozenTrunk(model, replicate(variables, mesh), contract, start, loader, "data", index.kinds, seed=0)
        inputs = choose_inputs(TrainConfig(cache_features=place), t, index, 0, tmp_path, lambda _: None)
        assert inputs.place == place
        optimizer = optax.sgd(0.01)  # Adam's first steps are as long for a gradient that is all rounding
        step = make_train_step(model, objective, optimizer, plan, inputs.input_fn, StepOptions(mesh, 0, 0.9))
        state = replicate(init_state(variables, optimizer), mesh)
        order = epoch_batches(inputs.view_rows, 0, 1, 8)
        for _ in range(len(order.rows)):
            state, _ = step(state, inputs.loader.items, inputs.loader.ages, jax.device_get(order))
        predict = make_predict_step(model, objective, inputs.input_fn, mesh)
        results.append(predict_rows(predict, state.average, inputs.loader, inputs.eval_rows, 16).age)
    moved = np.abs(
        results[0] - predict_rows(predict, replicate(variables, mesh), inputs.loader, inputs.eval_rows, 16).age
    )
    assert moved.max() > 1
    tested = np.setdiff1d(np.arange(40), index.train_rows)
    np.testing.assert_allclose(results[1][tested], results[0][tested], rtol=1e-5, atol=1e-4)


def choose(tmp_path: Path, **settings: Any) -> tuple[TrainInputs, str]:
    said: list[str] = []
    config = TrainConfig(**settings)
    index = view_index(config.views)
    inputs = choose_inputs(
        config, trunk(start="fc", kinds=index.kinds), index, config.epochs * 60 + 30, tmp_path, said.append
    )
    return inputs, "\n".join(said)


def test_a_head_learns_from_features_and_says_why(tmp_path: Path) -> None:
    inputs, said = choose(tmp_path)
    assert "frozen layers, before fc: computed once, cached" in said
    assert "save about" in said
    assert inputs.view_rows.shape == (len(TRAIN), 2)


def test_a_file_is_found_by_a_later_run(tmp_path: Path) -> None:
    first, _ = choose(tmp_path, cache_features="disk")
    again, said = choose(tmp_path)
    assert "found" in said
    np.testing.assert_array_equal(np.asarray(first.loader.items), np.asarray(again.loader.items))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("place", "resident"), [("device", True), ("host", False), ("disk", True)])
def test_the_place_is_as_asked(tmp_path: Path, place: Any, resident: bool) -> None:
    inputs, _ = choose(tmp_path, cache_features=place)
    assert inputs.loader.resident is resident
    assert inputs.place == place
    assert inputs.view_rows.shape[1] == 2
    assert any(tmp_path.iterdir()) is (place == "disk")
    np.testing.assert_array_equal(np.asarray(inputs.loader.ages), [*AGES, *AGES[TRAIN]])


def test_images_augmented_anew_are_not_kept(tmp_path: Path) -> None:
    inputs, said = choose(tmp_path, augment=True)
    assert inputs.place == "off"
    assert "augments its images anew" in said


def test_off_and_a_single_epoch_learn_from_images(tmp_path: Path) -> None:
    for settings in ({"cache_features": "off"}, {"epochs": 1}):
        inputs, said = choose(tmp_path, **settings)
        assert inputs.loader.items.dtype == np.uint8
        assert inputs.place == "off"
        assert inputs.view_rows.tolist() == [[row, row] for row in TRAIN]
    assert "the run needs 90 features" in said


PLENTY = {"device": 100.0 * GIB, "disk": 100.0 * GIB, "host": 100.0 * GIB}


def costs(**changes: float) -> Costs:
    """A thousand images of a MiB each, looked at ten times, at 10 ms each."""
    return Costs(**({"nbytes": GIB, "images": 1024, "seen": 10240, "seconds": 0.01} | PLENTY | changes))


def test_slow_prefixes_are_kept_in_a_file_and_fast_ones_on_the_device() -> None:
    assert decide(costs()).place == "disk"
    assert decide(costs(seconds=1e-5)).place == "device"
    assert "1.00 GiB" in decide(costs()).why


def test_what_does_not_fit_goes_elsewhere() -> None:
    assert decide(costs(disk=0.0)).place == "device"
    assert decide(costs(disk=0.0, device=0.0)).place == "host"
    none = decide(costs(disk=0.0, device=0.0, host=0.0))
    assert (none.place, "do not fit" in none.why) == ("off", True)


def test_reading_that_takes_longer_than_computing_is_not_done() -> None:
    slow = 1024 * 1024 / DISK_RATE
    assert decide(costs(device=0.0, host=0.0, seconds=slow)).place == "off"
    assert decide(costs(device=0.0, host=0.0, seconds=10 * slow)).place == "disk"
    assert decide(costs(device=0.0, disk=0.0, seconds=0.9 * 1024 * 1024 / HOST_RATE)).place == "off"


def test_more_views_than_looks_are_not_kept() -> None:
    assert decide(costs(images=20480)).place == "off"


@given(
    seconds=st.floats(1e-7, 10), images=st.integers(1, 10**6), seen=st.integers(1, 10**7), nbytes=st.integers(1, 2**40)
)
def test_nothing_is_kept_that_costs_more_than_it_saves(seconds: float, images: int, seen: int, nbytes: int) -> None:
    asked = costs(seconds=seconds, images=images, seen=seen, nbytes=nbytes)
    place, _ = decide(asked)
    room = PLENTY | {"off": nbytes}
    assert nbytes <= room[place] or place == "disk"
    if place != "off":
        assert (seen - images) * seconds > 0


def test_the_device_budget_is_one_for_images_and_features(tmp_path: Path) -> None:
    """Features take the place of the images, and are streamed from memory if they do not fit."""
    index = view_index(2)
    for budget, fits in (
        (60_000, True),
        (56_000, False),
    ):  # each of 2: 35 images of 768, 55 features of 1,024
        config = TrainConfig(memory_budget=budget / GIB, cache_features="device")
        t = trunk(kinds=index.kinds, start="layer4", budget=budget)
        assert t.loader.resident
        said: list[str] = []
        inputs = choose_inputs(config, t, index, 0, tmp_path, said.append)
        assert isinstance(t.loader.items, jax.Array)
        assert t.loader.items.is_deleted()
        assert (inputs.loader.resident, inputs.place) == (fits, "device")
        assert any("cached in memory instead" in line for line in said) is not fits
