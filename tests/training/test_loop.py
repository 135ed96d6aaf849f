import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.config import TrainConfig
from jaxage.data.loader import DataLoader
from jaxage.data.records import make_records
from jaxage.data.sampler import epoch_batches
from jaxage.losses import make_objective
from jaxage.report.event_file import scalars_of
from jaxage.training.cache_policy import TrainInputs
from jaxage.training.checkpoint import open_checkpoints
from jaxage.training.freeze import ema_mask, make_freeze_plan, parse_trainable
from jaxage.training.inputs import from_images
from jaxage.training.loop import PhaseSteps, Program, Progress, fit, steps_per_epoch
from jaxage.training.optimizer import make_optimizer, make_schedule
from jaxage.training.run_folder import Run
from jaxage.training.state import TrainState, init_state
from jaxage.training.step import StepOptions, make_predict_step, make_train_step
from jaxage.training.unfreeze import Phase, make_phases, plan_in
from jaxage.types import Diverged, Stopped, Variables
from jaxage.utils.sharding import make_mesh, replicate
from tests.events import read_events
from tests.tiny import tiny_model

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
AGES = RNG.uniform(0, 100, 40).astype(np.float32)
RECORDS = make_records(
    [f"{i}.png" for i in range(40)], AGES.tolist(), split=["train"] * 22 + ["validation"] * 10 + ["test"] * 8
)
CONFIG = TrainConfig(trainable="fc,layer4,bn4", epochs=3, batch_size=8, loss="l1")
PER_EPOCH = 3
LOOKS = np.arange(40, dtype=np.int32)[:, None]
SLOTS = RECORDS.rows_of("train")[:, None].astype(np.int32)

Ready = tuple[Program, TrainState, Run]


@pytest.fixture(scope="module")
def prepare() -> Callable[..., Ready]:
    """Compiles once; gives a program, its first state and a run in a folder."""
    mesh = make_mesh(jax.devices()[:1])
    model, objective, channels = tiny_model(), make_objective("l1", 40.0, 20.0), ((0.5,) * 3, (0.25,) * 3)
    variables = model.init(jax.random.key(0))
    plan = make_freeze_plan(model, variables, parse_trainable(CONFIG.trainable, variables["params"]), "eval")
    total = PER_EPOCH * CONFIG.epochs
    optimizer = make_optimizer(CONFIG, plan, total)
    source = from_images(model, channels, start="layer4", use_augment=True)
    parts = model, objective, optimizer, plan, source
    steps = {count: make_train_step(*parts, StepOptions(mesh, 0, 0.9, count)) for count in (1, PER_EPOCH)}
    predict = make_predict_step(model, objective, source, mesh)
    inputs = TrainInputs(DataLoader(*replicate((IMAGES, AGES), mesh), mesh), SLOTS, LOOKS, source)

    def make(folder: Path, wrap: Callable[..., Any] = lambda f: f, most: int = 1) -> Ready:
        schedule = make_schedule(CONFIG, total)
        chosen = {count: wrap(step) for count, step in steps.items() if count <= most}
        phases = (PhaseSteps(Phase(0, total, frozenset({"fc", "layer4"})), chosen),)
        program = Program(RECORDS, inputs, phases, predict, 8, schedule, ema_mask(variables, plan), mesh)
        return program, replicate(init_state(variables, optimizer), mesh), a_run(folder)

    return make


@pytest.fixture(autouse=True)
def a_checkpoint_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxage.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def a_run(folder: Path) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder, CONFIG, CONFIG, lambda _: None, 0.0)


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
    assert call == 9 or progress.run_s > time.perf_counter()  # of both processes: here each began at 0


def test_events_are_the_history_also_of_a_run_that_was_stopped(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    """Followed from the start or only since it was resumed, killed while it wrote, and with the same numbers."""
    pytest.importorskip("tensorboardX")
    whole, expected = fit(*prepare(tmp_path / "whole"))
    for name, from_start in (("followed", True), ("later", False)):
        folder = tmp_path / name
        for wrap in ((signal_at(7, signal.SIGTERM),), ()):
            program, state, run = prepare(folder, *wrap)
            run = replace(run, config=replace(CONFIG, tensorboard=from_start or not wrap))
            if wrap:
                with pytest.raises(Stopped):
                    fit(program, state, run)
        if from_start:
            (events,) = (folder / "tensorboard").iterdir()
            events.write_bytes(events.read_bytes()[:-5])
        best, progress = fit(program, state, run)
        assert leaves(best) == leaves(whole)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines == history(progress) == history(expected)
        for (step, scalars), line in zip(read_events(folder / "tensorboard"), lines, strict=True):
            assert step == line["step"]
            values = {tag: float(np.float32(value)) for tag, value in scalars_of(line).items()}
            assert scalars == values
            assert scalars["train/loss"] == np.float32(line["train_loss"])
            assert scalars["validation/MAE"] == np.float32(line["validation"]["mae"])
    fit(*prepare(tmp_path / "whole"))
    assert not (tmp_path / "whole" / "tensorboard").exists()


def test_streamed_equals_resident(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    whole, expected = fit(*prepare(tmp_path / "resident"))
    program, state, run = prepare(tmp_path / "streamed")
    streamed = replace(program.inputs, loader=DataLoader(IMAGES, AGES, program.mesh))
    best, progress = fit(program._replace(inputs=streamed), state, run)
    assert leaves(best) == leaves(whole)
    assert history(progress) == history(expected)


def test_a_whole_epoch_in_one_dispatch_equals_single_steps(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    """Stopped after a single step and resumed, the rest of that epoch is done in single steps as well."""
    whole, expected = fit(*prepare(tmp_path / "single"))
    best, progress = fit(*prepare(tmp_path / "epochs", most=PER_EPOCH))
    with pytest.raises(Stopped, match="step 4;"):
        fit(*prepare(tmp_path / "run", signal_at(4, signal.SIGTERM)))
    resumed, _ = fit(*prepare(tmp_path / "run", most=PER_EPOCH))
    for found in (best, resumed):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert progress.images == expected.images


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, [6, 9]), (1000.0, [9])])
def test_checkpoints_keep_a_distance_and_the_last_epoch_has_one(
    prepare: Callable[..., Ready], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, kept: list[int]
) -> None:
    monkeypatch.setattr("jaxage.training.loop.SECONDS_BETWEEN_CHECKPOINTS", seconds)
    fit(*prepare(tmp_path / "run"))
    with open_checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert sorted(checkpoints.all_steps()) == kept


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
    broken[epoch_batches(SLOTS, CONFIG.seed, 1, CONFIG.batch_size).rows[1, 0]] = np.nan
    program, state, run = prepare(tmp_path / "first")
    loader = replace(program.inputs.loader, ages=jnp.asarray(broken))
    program = program._replace(inputs=replace(program.inputs, loader=loader))
    with pytest.raises(Diverged, match=r"step 1; there is no checkpoint yet"):
        fit(program, state, run)

    program, _, _ = prepare(tmp_path / "later")

    def poisoned(state: TrainState, images: Any, ages: Any, order: Any) -> Any:
        return program.phases[0].train_steps[1](state, images, ages * (np.nan if int(state.step) == 4 else 1), order)

    with pytest.raises(Diverged, match=r"step 4; the last good checkpoint is of step 3"):
        fit(*prepare(tmp_path / "later", wrap=lambda _: poisoned))


def test_predictions_that_are_none_stop_before_they_are_saved(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    program, _, _ = prepare(tmp_path / "run")

    def poisoned(*arguments: Any) -> Any:
        state, bad = program.phases[0].train_steps[1](*arguments)
        if int(state.step) >= 6:
            state = state._replace(average=jax.tree.map(lambda x: x * jnp.nan, state.average))
        return state, bad

    with pytest.raises(Diverged, match=r"predictions .* after epoch 2; the last good checkpoint is of step 3"):
        fit(*prepare(tmp_path / "run", wrap=lambda _: poisoned))
    assert fit(*prepare(tmp_path / "run"))[1].history[-1]["epoch"] == 3


def test_a_loss_that_is_none_does_not_wait_for_the_epochs_end(prepare: Callable[..., Ready], tmp_path: Path) -> None:
    calls = []

    def poisoned(state: TrainState, *_: Any) -> Any:
        calls.append(int(state.step))
        return state._replace(step=state.step + 1, bad_step=jnp.zeros_like(state.bad_step)), jnp.int32(0)

    program, state, run = prepare(tmp_path / "run", wrap=lambda _: poisoned)
    many = program._replace(inputs=replace(program.inputs, view_rows=np.tile(SLOTS, (5, 1))))
    with pytest.raises(Diverged, match="step 0"):
        fit(many, state, run)
    assert calls == [0, 1, 2]


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(CONFIG, RECORDS) == PER_EPOCH


def test_what_learns_later_is_untouched_until_then(tmp_path: Path) -> None:
    """In the middle of an epoch, stopped and resumed there or not; from then on it has the moments of a fresh start."""
    mesh = make_mesh(jax.devices()[:1])
    model, objective = tiny_model(), make_objective("l1", 40.0, 20.0)
    variables = model.init(jax.random.key(0))
    plan = make_freeze_plan(model, variables, parse_trainable(CONFIG.trainable, variables["params"]), "eval")
    total, firsts = PER_EPOCH * CONFIG.epochs, {"fc": 0, "layer4": 4, "bn4": 7}
    optimizer = make_optimizer(CONFIG, plan, total, firsts)
    source = from_images(model, ((0.5,) * 3, (0.25,) * 3), start="layer4")
    seen: dict[int, Variables] = {}

    def step_of(phase: Phase) -> Any:
        now = plan_in(phase, plan, variables["batch_stats"], "eval")
        assert now.train_bn == ({"bn4"} if phase.first == 7 else frozenset())
        step = make_train_step(model, objective, optimizer, now, source, StepOptions(mesh, 0, 0.9))

        def remember(state: TrainState, *arguments: Any) -> Any:
            state, flag = step(state, *arguments)
            seen[int(state.step)] = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
            if int(state.step) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return state, flag

        return remember

    predict = make_predict_step(model, objective, source, mesh)
    inputs = TrainInputs(DataLoader(*replicate((IMAGES, AGES), mesh), mesh), SLOTS, LOOKS, source)
    phases = tuple(PhaseSteps(phase, {1: step_of(phase)}) for phase in make_phases(firsts, total))
    schedule = make_schedule(CONFIG, total)

    def run(folder: Path) -> Variables:
        program = Program(RECORDS, inputs, phases, predict, 8, schedule, ema_mask(variables, plan), mesh)
        return fit(program, replicate(init_state(variables, optimizer), mesh), a_run(folder))[0]

    stop_at = 0
    whole = run(tmp_path / "whole")
    assert sorted(seen) == list(range(1, 10))
    first = jax.device_get(variables)

    def same(step: int, *path: str) -> bool:
        new, old = seen[step], first
        for key in path:
            new, old = new[key], old[key]
        return leaves(new) == leaves(old)

    assert not same(1, "params", "fc")
    assert [same(step, "params", "layer4") for step in range(1, 10)] == [step <= 4 for step in range(1, 10)]
    for part in ("params", "batch_stats"):
        assert [same(step, part, "bn4") for step in range(1, 10)] == [step <= 7 for step in range(1, 10)]
    assert all(same(step, "params", "conv1") for step in seen)
    moved = np.abs(seen[5]["params"]["layer4"]["kernel"] - seen[4]["params"]["layer4"]["kernel"])
    assert 0 < moved.max() <= 1.01 * CONFIG.learning_rate  # Adam's first step is no larger than the rate

    stop_at = 5
    with pytest.raises(Stopped, match="at step 5"):
        run(tmp_path / "cut")
    stop_at = 0
    assert leaves(run(tmp_path / "cut")) == leaves(whole)
