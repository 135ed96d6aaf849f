"""The loop over epochs: train, validate, keep the best, checkpoint; the same numbers whether or not it was stopped."""

import json
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxage.config import TrainConfig
from jaxage.data.loader import step_batches
from jaxage.data.records import Records
from jaxage.data.sampler import epoch_batches
from jaxage.metrics import scores_line
from jaxage.training.checkpoint import Checkpoint, open_checkpoints, restore_latest, save
from jaxage.training.feature_cache import TrainInputs
from jaxage.training.predictor import predict_rows, scores
from jaxage.training.run_folder import HISTORY
from jaxage.training.state import TrainState, start_epoch
from jaxage.training.step import PredictStep, TrainStep
from jaxage.training.unfreeze import Phase
from jaxage.types import Log, Variables
from jaxage.utils.files import write_text
from jaxage.utils.sharding import block_if_multi_cpu, replicated


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Stopped(RuntimeError):
    """A signal ended the run after its state was saved."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@dataclass(frozen=True)
class Stage:
    """The compiled steps of a phase, by how many steps each does; one of them does one."""

    phase: Phase
    train_steps: Mapping[int, TrainStep]


@dataclass(frozen=True)
class Job:
    """All that the loop needs: the settings, the table, what is learned from, and the compiled steps.

    stages: what learns when. predict_batch: how many are predicted at once.
    """

    config: TrainConfig
    folder: Path
    records: Records
    inputs: TrainInputs
    stages: Sequence[Stage]
    predict_step: PredictStep
    predict_batch: int
    schedule: optax.Schedule
    mesh: Mesh
    log: Log
    started: float


@dataclass
class Progress:
    """What is known of the epochs done: a line of history each, and the best of them; seconds of training and of the
    whole run, earlier processes included; images trained.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    train_s: float = 0.0
    run_s: float = 0.0
    images: int = 0


def steps_per_epoch(config: TrainConfig, records: Records) -> int:
    """How many batches hold all training images."""
    return math.ceil(len(records.rows_of("train")) / config.batch_size)


def fit(job: Job, state: TrainState) -> tuple[Variables, Progress]:
    """Train to the end from `state` or from the newest checkpoint in the run's folder; the best variables and history.

    Raises Diverged a few steps after a loss that is not finite and for predictions that are not, before anything of
    that is saved; Stopped after SIGTERM or SIGINT.
    """
    checkpoints = open_checkpoints(job.folder / "checkpoints")
    best, progress = _copy(state.average), Progress()
    if restored := restore_latest(checkpoints, state, replicated(job.mesh)):
        state, best, progress = restored.state, restored.best, Progress(**restored.progress)
        job.log(f"resuming at step {int(state.step)}")
    earlier = progress.run_s
    _write_history(job.folder, progress)
    per_epoch = steps_per_epoch(job.config, job.records)
    with _signals() as caught:
        for epoch in range(int(state.step) // per_epoch + 1, job.config.epochs + 1):
            state = _train_epoch(job, state, epoch, progress, caught)
            if int(state.bad_step) >= 0:
                raise _diverged(
                    job, checkpoints.latest_step(), f"the loss was no finite number at step {int(state.bad_step)}"
                )
            if int(state.step) == epoch * per_epoch:
                best = _validate(job, state, best, epoch, progress)
                if progress.history[-1]["validation"]["mae"] is None:
                    raise _diverged(
                        job, checkpoints.latest_step(), f"predictions were no finite numbers after epoch {epoch}"
                    )
            progress.run_s = earlier + time.perf_counter() - job.started
            save(checkpoints, Checkpoint(state, best, vars(progress)))
            _write_history(job.folder, progress)
            if caught:
                raise Stopped(
                    f"stopped by {signal.Signals(caught[0]).name} at step {int(state.step)}; "
                    f"go on with --out {job.folder} --resume",
                    caught[0],
                )
    checkpoints.close()
    return best, progress


def _diverged(job: Job, last: int | None, what: str) -> Diverged:
    good = f"the last good checkpoint is of step {last}" if last is not None else "there is no checkpoint yet"
    return Diverged(f"{what}; {good}, in {job.folder / 'checkpoints'}. Start a new run with a lower --learning-rate")


def _train_epoch(job: Job, state: TrainState, epoch: int, progress: Progress, caught: list[int]) -> TrainState:
    """The steps of an epoch that are not done yet, or those until a signal is caught.

    The device is never waited for: what is read on the way is the flag of the dispatch before the one before.
    """
    view_rows, size = job.inputs.view_rows, job.config.batch_size
    order = jax.device_put(epoch_batches(view_rows, job.config.seed, epoch, size), replicated(job.mesh))
    steps = len(order.rows)
    before = (epoch - 1) * steps
    done = int(state.step) - before
    if done == 0:
        state = start_epoch(state)
    bad: deque[Any] = deque()
    started = time.perf_counter()
    bar = tqdm(total=steps, initial=done, desc=f"epoch {epoch}/{job.config.epochs}", leave=False, disable=None)
    with bar:
        for first, end, train_steps in _stretches(job.stages, before, done, steps):
            count = max(count for count in train_steps if (end - first) % count == 0)
            with closing(step_batches(job.inputs.loader, order, first, end, count)) as arguments:
                for batch in arguments:
                    state, flag = train_steps[count](state, *batch)
                    bad.append(block_if_multi_cpu(flag))
                    bar.update(count)
                    stop = caught or (len(bad) > 2 and int(bad.popleft()) >= 0)
                    if stop:
                        break
            if stop:
                break
    jax.block_until_ready(state)
    progress.train_s += time.perf_counter() - started
    earlier, later = (min(step * size, len(view_rows)) for step in (done, int(state.step) - before))
    progress.images += later - earlier
    return state


def _stretches(
    stages: Sequence[Stage], before: int, done: int, steps: int
) -> Iterator[tuple[int, int, Mapping[int, TrainStep]]]:
    """What is left of an epoch's steps, cut where a phase ends: (first, end, compiled steps), counted in the epoch."""
    for stage in stages:
        first, end = max(done, stage.phase.first - before), min(steps, stage.phase.end - before)
        if first < end:
            yield first, end, stage.train_steps


def _validate(job: Job, state: TrainState, best: Variables, epoch: int, progress: Progress) -> Variables:
    """Add the epoch to the history; the better of `best` and the current average, by validation MAE."""
    rows = job.records.rows_of("validation")
    prediction = predict_at(job, state.average, rows)
    validation = scores(prediction, job.records.age[rows])
    line = {
        "epoch": epoch,
        "step": int(state.step),
        "train_loss": float(state.loss_sum / state.loss_weight),
        "learning_rate": float(job.schedule(int(state.step) - 1)),
        "validation": validation,
    }
    before = min((past["validation"]["mae"] for past in progress.history), default=math.inf)
    improved = validation["mae"] is not None and validation["mae"] < before
    progress.history.append(line)
    if improved:
        progress.best_epoch = epoch
        best = _copy(state.average)
    rate = progress.images / progress.train_s
    job.log(
        f"epoch {epoch:>3}  loss {line['train_loss']:.4f}  validation {scores_line(validation)}  {rate:.0f} images/s"
        + "  *" * improved
    )
    return best


def predict_at(job: Job, variables: Variables, rows: np.ndarray) -> np.ndarray:
    """Ages in years, float32, of these rows of the job's table."""
    inputs = job.inputs
    return predict_rows(job.predict_step, variables, inputs.loader, inputs.eval_rows[rows], job.predict_batch)


def _copy(variables: Variables) -> Variables:
    """A copy that outlives the donation of the original to the next step."""
    copied: Variables = jax.tree.map(lambda leaf: leaf.copy(), variables)
    return copied


def _write_history(folder: Path, progress: Progress) -> None:
    write_text(folder / HISTORY, "".join(json.dumps(line) + "\n" for line in progress.history))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT append to; a second signal acts as usual. Only the main thread catches any."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}

    def note(signum: int, _: Any) -> None:
        caught.append(signum)
        for each, handler in previous.items():
            signal.signal(each, handler)

    for signum in previous:
        signal.signal(signum, note)
    try:
        yield caught
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
