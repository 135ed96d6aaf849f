"""`jaxage lr-find`: the learning-rate range test (Smith 2017), how the loss goes while the rate grows."""

import math
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optax
from jaxtyping import Float

from jaxage.config import TrainConfig, cache_folder
from jaxage.data.load import load_data
from jaxage.data.loader import step_batches
from jaxage.data.sampler import epoch_batches
from jaxage.report.plots import rates
from jaxage.training.build import build, resolve, run_inputs
from jaxage.training.checkpoint import Checkpoint, make_layout, open_checkpoints, restore_latest, save
from jaxage.training.loop import Program, steps_per_epoch
from jaxage.training.run_folder import Run, RunName, create_run, environment, open_run, require_inputs
from jaxage.training.setup import check_settings, initialize
from jaxage.training.state import TrainState
from jaxage.types import Log, UserError
from jaxage.utils import cluster
from jaxage.utils.files import write_csv
from jaxage.utils.sharding import block_if_multi_cpu, replicate

_LOW, _HIGH = 1e-6, 1.0
_MEMORY = 0.95
_TOO_MUCH = 3.0
_SAVE_EVERY = 50

RANGE_TESTS = RunName(prefix="lr-find-")

Curve = Float[np.ndarray, " steps"]


@dataclass(frozen=True)
class RangeTest:
    """How far the learning rate was raised: each step's rate, loss, and loss smoothed; the rate to use, if any."""

    rate: Curve
    loss: Curve
    smooth: Curve
    suggestion: float | None


def lr_find(config: TrainConfig, steps: int, log: Log = print, given: Collection[str] | None = None) -> RangeTest:
    """Train while the rate grows from 1e-6 to 1, and write lr-find.csv and lr-find.png into the run's folder.

    It ends early when the smoothed loss is three times its minimum, NaN or inf. The suggestion is a tenth of the rate
    of the minimum. Stopped and started again with `resume`, it continues from its last 50 steps.

    Args:
        config: The settings, as for `train`.
        steps: How many steps the rate takes, 10 or more.
        log: The logger.
        given: As for `train`.

    Raises:
        UserError: as `train` does, for fewer steps, and for settings that have no learning rate to find.
    """
    if config.solver != "adamw" or config.unfreeze or steps < 10:
        raise UserError("lr-find needs --solver adamw, no --unfreeze, and --steps 10 or more")
    with open_run(config, log, given, RANGE_TESTS) as run:
        setup = check_settings(run.config)
        dataset = load_data(run.config, cache_folder(), run.log, setup.input)
        initial = initialize(run.config, setup, dataset, run.log)
        inputs = run_inputs("lr-find", dataset, initial) | {"steps": steps}
        require_inputs(run.folder, inputs)
        cluster.require_same(inputs | environment()["packages"])
        growing = growth(steps)
        built = build(run.config, setup, dataset, initial, run.log, schedule=growing)
        run = replace(run, config=resolve(run.config, initial, built))
        create_run(run, inputs)
        losses = _losses(built.program, built.state, steps, run)
        test = suggest_lr(np.asarray([growing(step) for step in range(len(losses))], np.float64), losses)
        rows = zip(test.rate, test.loss, test.smooth, strict=True)
        table = (tuple(f"{x:.6g}" for x in row) for row in rows)
        if cluster.is_first():
            write_csv(run.folder / "lr-find.csv", ("rate", "loss", "smooth"), table)
            rates(run.folder / "lr-find.png", test.rate, test.loss, test.smooth, test.suggestion)
    found = f"try --learning-rate {test.suggestion:.1e}" if test.suggestion else "the loss never fell: look at the plot"
    run.log(f"{len(losses)} steps, rates up to {test.rate[-1]:.1e}: {found} ({run.folder / 'lr-find.png'})")
    return test


def growth(steps: int) -> optax.Schedule:
    """From 1e-6 to 1, by the same factor at each step."""
    return lambda step: _LOW * (_HIGH / _LOW) ** (step / (steps - 1))


def suggest_lr(rate: Curve, loss: Curve) -> RangeTest:
    """Smooth the losses (a moving average, corrected for its start) and find the rate of the minimum.

    No rate is suggested if the minimum is at the first step.
    """
    smooth, average = np.empty_like(loss), 0.0
    for step, value in enumerate(loss):
        average = _MEMORY * average + (1 - _MEMORY) * value
        smooth[step] = average / (1 - _MEMORY ** (step + 1))
    least = int(np.nanargmin(smooth))
    return RangeTest(rate, loss, smooth, float(rate[least]) / 10 if least else None)


def _losses(program: Program, state: TrainState, steps: int, run: Run) -> Curve:
    """The loss of each step, until it far exceeds the minimum. Earlier losses come from the newest checkpoint."""
    losses: list[float] = []
    layout = make_layout(state, program.moves)
    with open_checkpoints(run.folder / "checkpoints") as checkpoints:
        if restored := restore_latest(checkpoints, state, layout, program.mesh):
            state, losses = restored.state, restored.progress["losses"]
            run.log(f"resuming at step {int(state.step)}")
        step = program.phases[0].train_steps[1]
        before = float(state.loss_sum), float(state.loss_weight)
        for batch in _batches(program, len(losses), steps, run):
            state, flag = step(state, *batch)
            block_if_multi_cpu(flag)
            after = float(state.loss_sum), float(state.loss_weight)
            losses.append((after[0] - before[0]) / (after[1] - before[1]))
            before = after
            smooth = suggest_lr(np.ones(len(losses)), np.asarray(losses)).smooth
            if not math.isfinite(losses[-1]) or smooth[-1] > _TOO_MUCH * smooth.min():
                break
            if len(losses) % _SAVE_EVERY == 0:
                save(checkpoints, Checkpoint(state, state.average, {"losses": losses}), layout)
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise UserError("the very first loss is NaN or inf: check the data and the weights")
    return np.asarray(finite)


def _batches(program: Program, done: int, steps: int, run: Run) -> Iterator[tuple[Any, ...]]:
    per_epoch = steps_per_epoch(run.config, program.records)
    while done < steps:
        epoch, first = divmod(done, per_epoch)
        end = min(per_epoch, first + steps - done)
        order = epoch_batches(program.inputs.view_rows, run.config.seed, epoch + 1, run.config.batch_size)
        order = replicate(order, program.mesh)
        with closing(step_batches(program.inputs.loader, order, first, end, 1)) as arguments:
            yield from arguments
        done += end - first
