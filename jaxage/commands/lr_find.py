"""The learning-rate range test (Smith 2017): how the loss goes while the rate grows from step to step."""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float

from jaxage.config import TrainConfig, cache_folder
from jaxage.data.load import load_data
from jaxage.data.loader import step_batches
from jaxage.data.sampler import epoch_batches
from jaxage.report.plots import rates
from jaxage.report.tables import write_csv
from jaxage.training.build import assemble
from jaxage.training.checkpoint import Checkpoint, open_checkpoints, restore_latest, save
from jaxage.training.loop import Job, steps_per_epoch
from jaxage.training.run_folder import create_run, find_run, lock_run_dir
from jaxage.training.setup import check_settings, first_variables, make_model_config
from jaxage.training.state import TrainState
from jaxage.types import Log, UserError
from jaxage.utils.sharding import block_if_multi_cpu, replicated

_LOW, _HIGH = 1e-6, 1.0
_MEMORY = 0.95
_TOO_MUCH = 3.0
_SAVE_EVERY = 50


@dataclass(frozen=True)
class RangeTest:
    """How far the learning rate was raised: each step's rate, loss, and loss smoothed; the rate to use, if any."""

    rate: Float[np.ndarray, " steps"]
    loss: Float[np.ndarray, " steps"]
    smooth: Float[np.ndarray, " steps"]
    suggestion: float | None


def lr_find(config: TrainConfig, steps: int, log: Log = print) -> RangeTest:
    """Train `steps` steps while the rate grows from 1e-6 to 1, and write lr-find.csv and lr-find.png into the folder.

    It ends early when the smoothed loss is three times the least or no number. The suggestion is a tenth of the rate
    of the least. Stopped and begun again with `resume`, it goes on from its last 50 steps. Raises UserError as `train`.
    """
    if config.solver != "adamw" or steps < 10:
        raise UserError("lr-find needs --solver adamw and --steps 10 or more")
    started = time.perf_counter()
    if config.cache_features == "auto":  # decided by measured times: resumed, it must not decide otherwise
        config = replace(config, cache_features="off")
    config, folder = find_run(replace(config, out=config.out or Path("lr-find"), unfreeze=""))
    groups = check_settings(config)
    with lock_run_dir(folder):
        dataset = load_data(config, cache_folder(), log)
        contract = make_model_config(config, dataset)
        variables, weights = first_variables(config, contract, log)
        config = replace(config, loss=contract.loss, dtype=contract.dtype)
        create_run(config, folder, {"command": "lr-find", "data": dataset.sha256, "weights": weights, "steps": steps})
        growing = growth(steps)
        job, state, _ = assemble(config, folder, dataset, contract, variables, groups, started, log, schedule=growing)
        losses = _losses(job, state, steps)
        test = read(np.asarray([growing(step) for step in range(len(losses))], np.float64), losses)
        rows = zip(test.rate, test.loss, test.smooth, strict=True)
        write_csv(folder / "lr-find.csv", ("rate", "loss", "smooth"), (tuple(f"{x:.6g}" for x in row) for row in rows))
        rates(folder / "lr-find.png", test.rate, test.loss, test.smooth, test.suggestion)
    found = f"try --learning-rate {test.suggestion:.1e}" if test.suggestion else "the loss never fell: look at the plot"
    log(f"{len(losses)} steps, rates up to {test.rate[-1]:.1e}: {found} ({folder / 'lr-find.png'})")
    return test


def growth(steps: int) -> optax.Schedule:
    """From 1e-6 to 1, by the same factor at each step."""
    return lambda step: _LOW * (_HIGH / _LOW) ** (step / (steps - 1))


def read(rate: Float[np.ndarray, " steps"], loss: Float[np.ndarray, " steps"]) -> RangeTest:
    """Smooth the losses (a moving average, corrected for its start) and find the rate of the least.

    No rate is suggested if the least is the first.
    """
    smooth, average = np.empty_like(loss), 0.0
    for step, value in enumerate(loss):
        average = _MEMORY * average + (1 - _MEMORY) * value
        smooth[step] = average / (1 - _MEMORY ** (step + 1))
    least = int(np.nanargmin(smooth))
    return RangeTest(rate, loss, smooth, float(rate[least]) / 10 if least else None)


def _losses(job: Job, state: TrainState, steps: int) -> Float[np.ndarray, " steps"]:
    """Of each step, until it is far above the least: earlier ones from the newest checkpoint."""
    checkpoints = open_checkpoints(job.folder / "checkpoints")
    losses: list[float] = []
    if restored := restore_latest(checkpoints, state, replicated(job.mesh)):
        state, losses = restored.state, restored.progress["losses"]
        job.log(f"resuming at step {int(state.step)}")
    step = job.stages[0].train_steps[1]
    before = float(state.loss_sum), float(state.loss_weight)
    for batch in _batches(job, len(losses), steps):
        state, flag = step(state, *batch)
        block_if_multi_cpu(flag)
        after = float(state.loss_sum), float(state.loss_weight)
        losses.append((after[0] - before[0]) / (after[1] - before[1]))
        before = after
        smooth = read(np.ones(len(losses)), np.asarray(losses)).smooth
        if not math.isfinite(losses[-1]) or smooth[-1] > _TOO_MUCH * smooth.min():
            break
        if len(losses) % _SAVE_EVERY == 0:
            save(checkpoints, Checkpoint(state, state.average, {"losses": losses}))
    checkpoints.close()
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise UserError("the very first loss is no finite number: look at the data and the weights")
    return np.asarray(finite)


def _batches(job: Job, done: int, steps: int) -> Iterator[tuple[Any, ...]]:
    per_epoch = steps_per_epoch(job.config, job.records)
    while done < steps:
        epoch, first = divmod(done, per_epoch)
        end = min(per_epoch, first + steps - done)
        order = epoch_batches(job.inputs.view_rows, job.config.seed, epoch + 1, job.config.batch_size)
        order = jax.device_put(order, replicated(job.mesh))
        with closing(step_batches(job.inputs.loader, order, first, end, 1)) as arguments:
            yield from arguments
        done += end - first
