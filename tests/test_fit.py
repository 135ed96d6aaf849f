import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from jaxage.config import TrainConfig
from jaxage.data.records import make_records
from jaxage.feed import Feed
from jaxage.fit import Diverged, Job, Progress, Stopped, epoch_batches, fit, steps_per_epoch
from jaxage.freeze import label_tree, live_batch_norms, parse_trainable
from jaxage.losses import make_objective
from jaxage.mesh import make_mesh, replicate
from jaxage.optim import make_optimizer, make_schedule
from jaxage.state import TrainState, init_state
from jaxage.steps import make_predict_step, make_train_step
from jaxage.types import Variables
from tests.tiny import tiny_model

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
AGES = RNG.uniform(0, 100, 40).astype(np.float32)
RECORDS = make_records(
    [f"{i}.png" for i in range(40)], AGES.tolist(), split=["train"] * 22 + ["validation"] * 10 + ["test"] * 8
)
CONFIG = TrainConfig(trainable="fc,layer4,bn4", epochs=3, batch_size=8, loss="l1")
PER_EPOCH = 3

Ready = tuple[Job, TrainState]


@pytest.fixture(scope="module")
def prepare() -> Callable[..., Ready]:
    """Compiles once; gives a job in a folder and its first state."""
    mesh = make_mesh(jax.devices()[:1])
    model, objective, channels = tiny_model(), make_objective("l1", 40.0, 20.0), ((0.5,) * 3, (0.25,) * 3)
    variables = model.init(jax.random.key(0))
    groups = parse_trainable(CONFIG.trainable, variables["params"])
    labels = label_tree(variables["params"], groups)
    total = PER_EPOCH * CONFIG.epochs
    optimizer = make_optimizer(CONFIG, groups, labels, total)
    live = live_batch_norms(variables["batch_stats"], groups, "eval")
    options = {"use_augment": True, "average_decay": 0.9, "seed": 0, "mesh": mesh}
    step = make_train_step(model, objective, optimizer, labels, live, channels, **options)
    predict = make_predict_step(model, objective, channels, mesh)
    resident = Feed(*replicate((IMAGES, AGES), mesh), mesh)

    def make(folder: Path, wrap: Callable[..., Any] = lambda f: f) -> Ready:
        folder.mkdir(exist_ok=True)
        lines: list[str] = []
        schedule = make_schedule(CONFIG, total)
        job = Job(CONFIG, folder, RECORDS, resident, wrap(step), predict, schedule, mesh, lines.append, 0.0)
        return job, replicate(init_state(variables, optimizer), mesh)

    return make


def leaves(variables: Variables) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables)]


def history(progress: Progress) -> list[dict[str, Any]]:
    return progress.history


def signal_at(call: int, signum: int) -> Callable[..., Any]:
    """Wraps a step so that the process gets a signal during the given call."""

    def wrap(step: Any) -> Any:
        calls = iter(range(1, 10**6))

        def stepped(*arguments: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signum)
            return step(*arguments)

        return stepped

    return wrap


@pytest.mark.parametrize(
    ("call", "signum"),
    [(1, signal.SIGTERM), (2, signal.SIGINT), (3, signal.SIGTERM), (7, signal.SIGINT), (9, signal.SIGTERM)],
)
def test_stopped_and_resumed_equals_not_stopped(
    prepare: Callable[..., Ready], tmp_path: Path, call: int, signum: int
) -> None:
    whole, expected = fit(*prepare(tmp_path / "whole"))
    with pytest.raises(Stopped, match="--resume") as stop:
        fit(*prepare(tmp_path / "run", signal_at(call, signum)))
    assert stop.value.signum == signum
    assert f"step {call};" in str(stop.value)
    best, progress = fit(*prepare(tmp_path / "run"))
    assert leaves(best) == leaves(whole)
    assert history(progress) == history(expected)
    assert progress.best_epoch == expected.best_epoch
    assert progress.images == expected.images == 22 * 3


def test_streamed_equals_resident(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    whole, expected = fit(*prepare(tmp_path / "resident"))
    job, state = prepare(tmp_path / "streamed")
    best, progress = fit(replace(job, feed=Feed(IMAGES, AGES, job.mesh)), state)
    assert leaves(best) == leaves(whole)
    assert history(progress) == history(expected)


def test_handlers_are_as_they_were(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    fit(*prepare(tmp_path / "run"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_best_epoch_is_kept(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    _, progress = fit(*prepare(tmp_path / "run"))
    maes = [line["validation"]["mae"] for line in progress.history]
    assert progress.best_epoch == 1 + int(np.argmin(maes))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == progress.history
    assert [line["step"] for line in progress.history] == [3, 6, 9]


def test_nan_stops_with_the_step_and_the_last_good_checkpoint(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    broken = AGES.copy()
    broken[epoch_batches(CONFIG, RECORDS.rows_of("train"), 1)[0][1, 0]] = np.nan
    job, state = prepare(tmp_path / "first")
    job = replace(job, feed=replace(job.feed, ages=jnp.asarray(broken)))
    with pytest.raises(Diverged, match=r"step 1; there is no checkpoint yet"):
        fit(job, state)

    job, _ = prepare(tmp_path / "later")

    def poisoned(state: TrainState, images: Any, ages: Any, rows: Any, weights: Any) -> TrainState:
        return job.train_step(state, images, ages * (np.nan if int(state.step) == 4 else 1), rows, weights)

    with pytest.raises(Diverged, match=r"step 4; the last good checkpoint is of step 3"):
        fit(*prepare(tmp_path / "later", wrap=lambda _: poisoned))


def test_predictions_that_are_none_stop_before_they_are_saved(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    job, _ = prepare(tmp_path / "run")

    def poisoned(*arguments: Any) -> TrainState:
        state = job.train_step(*arguments)
        return (
            state if int(state.step) < 6 else state._replace(average=jax.tree.map(lambda x: x * jnp.nan, state.average))
        )

    with pytest.raises(Diverged, match=r"predictions .* after epoch 2; the last good checkpoint is of step 3"):
        fit(*prepare(tmp_path / "run", wrap=lambda _: poisoned))
    assert fit(*prepare(tmp_path / "run"))[1].history[-1]["epoch"] == 3


def test_a_loss_that_is_none_does_not_wait_for_the_epochs_end(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    calls = []

    def poisoned(state: TrainState, *_: Any) -> TrainState:
        calls.append(int(state.step))
        return state._replace(step=state.step + 1, bad_step=jnp.zeros_like(state.bad_step))

    with pytest.raises(Diverged, match="step 0"):
        fit(*prepare(tmp_path / "run", wrap=lambda _: poisoned))
    assert calls == [0]


@given(n=st.integers(1, 50), batch=st.integers(1, 16), epoch=st.integers(1, 5))
def test_an_epoch_counts_each_image_once(n: int, batch: int, epoch: int) -> None:
    rows = np.arange(100, 100 + n)
    batches, weights = epoch_batches(TrainConfig(batch_size=batch), rows, epoch)
    assert batches.shape == weights.shape == (-(-n // batch), batch)
    assert sorted(batches[weights == 1]) == rows.tolist()
    assert set(batches.ravel()) <= set(rows)


def test_epochs_and_seeds_have_their_own_order() -> None:
    rows = np.arange(30)
    orders = [epoch_batches(TrainConfig(seed=seed), rows, epoch)[0].tolist() for seed in (0, 1) for epoch in (1, 2)]
    assert len({str(order) for order in orders}) == 4
    assert orders[0] == epoch_batches(TrainConfig(seed=0), rows, 1)[0].tolist()


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(CONFIG, RECORDS) == PER_EPOCH
