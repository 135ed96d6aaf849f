"""The loop over epochs: train, validate, keep the best, checkpoint; a resumed run ends with the same numbers."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxage.config import TrainConfig
from jaxage.data.loader import step_batches
from jaxage.data.records import Records
from jaxage.data.sampler import epoch_batches
from jaxage.metrics import scores_line
from jaxage.training.cache_policy import TrainInputs
from jaxage.training.checkpoint import Checkpoint, make_layout, open_checkpoints, restore_latest, save
from jaxage.training.history import write_history
from jaxage.training.predictor import predict_rows, scores
from jaxage.training.run_folder import Run
from jaxage.training.state import TrainState, start_epoch
from jaxage.training.step import PredictStep, TrainStep
from jaxage.training.unfreeze import Phase
from jaxage.types import Diverged, Predictions, Rows, Stopped, Variables
from jaxage.utils import cluster
from jaxage.utils.sharding import any_process, block_if_multi_cpu, replicate
from jaxage.utils.watchdog import Watchdog

SECONDS_BETWEEN_CHECKPOINTS = 30.0
"""Epochs that end sooner after a checkpoint have none; the last one has, and the one that a signal ends."""


class PhaseSteps(NamedTuple):
    """Compiled training steps of one phase, by the number of steps per call. Key 1 always exists."""

    phase: Phase
    train_steps: Mapping[int, TrainStep]


class Program(NamedTuple):
    """What is compiled for a run, and what it runs on.

    records: the table of images. inputs: what is trained on. phases: training steps for each unfreezing phase.
    predict_step: predicts `predict_batch` faces at once. schedule: the learning rate by step. moves: a tree of booleans
    like the variables: which of them change in the run. mesh: the devices.
    """

    records: Records
    inputs: TrainInputs
    phases: Sequence[PhaseSteps]
    predict_step: PredictStep
    predict_batch: int
    schedule: optax.Schedule
    moves: Variables
    mesh: Mesh


@dataclass
class Progress:
    """Progress so far: one history entry per epoch, the best epoch, seconds of training and of the whole run (over all
    processes), and images trained.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    train_s: float = 0.0
    run_s: float = 0.0
    images: int = 0


def steps_per_epoch(config: TrainConfig, records: Records) -> int:
    """How many batches hold all training images."""
    return math.ceil(len(records.rows_of("train")) / config.batch_size)


def fit(program: Program, state: TrainState, run: Run) -> tuple[Variables, Progress]:
    """Train from `state`, or from the newest checkpoint in the run's folder, to the end.

    Args:
        program: What is compiled.
        state: The state before the first step.
        run: Has the settings, the folder for checkpoints and history, and the log.

    Returns:
        The averaged variables with the best validation MAE, and the history.

    Raises:
        Diverged: if the loss (noticed up to three calls later) or a validation prediction is NaN or inf. Nothing of
            that is saved.
        Stopped: after SIGTERM or SIGINT, once the state is saved.
    """
    best, progress = _copy(state.average), Progress()
    per_epoch, layout = steps_per_epoch(run.config, program.records), make_layout(state, program.moves)
    with open_checkpoints(run.folder / "checkpoints") as checkpoints, _signals() as caught:
        if restored := restore_latest(checkpoints, state, layout, program.mesh):
            state, best, progress = restored.state, restored.best, Progress(**restored.progress)
            run.log(f"resuming at step {int(state.step)}")
        earlier, saved = progress.run_s, time.perf_counter()
        write_history(run, progress.history)
        for epoch in range(int(state.step) // per_epoch + 1, run.config.epochs + 1):
            state = _train_epoch(program, state, epoch, progress, run, caught)
            if int(state.bad_step) >= 0:
                raise _diverged(run, checkpoints.latest_step(), f"the loss is NaN or inf at step {int(state.bad_step)}")
            if int(state.step) == epoch * per_epoch:
                best = _validate(program, state, best, epoch, progress, run)
                if progress.history[-1]["validation"]["mae"] is None:
                    raise _diverged(run, checkpoints.latest_step(), f"predictions are NaN or inf after epoch {epoch}")
            progress.run_s = earlier + time.perf_counter() - run.started
            due = time.perf_counter() - saved >= SECONDS_BETWEEN_CHECKPOINTS
            signum, due = _agree(caught, due)
            if due or signum or epoch == run.config.epochs:
                save(checkpoints, Checkpoint(state, best, vars(progress)), layout)
                saved = time.perf_counter()
            write_history(run, progress.history)
            if signum:
                raise Stopped(
                    f"stopped by {signal.Signals(signum).name} at step {int(state.step)}; "
                    f"continue with --out {run.folder} --resume"
                    if cluster.is_first()
                    else "",
                    signum,
                )
    return best, progress


def _agree(caught: list[int], due: bool) -> tuple[int, bool]:
    """A signal that any process has caught, 0 for none, and whether the first one wants a checkpoint."""
    votes = cluster.gather([max(caught, default=0), due])
    return max(signum for signum, _ in votes), votes[0][1]


def predict_at(program: Program, variables: Variables, rows: Rows) -> Predictions:
    """Ages in years, float32, of these rows of the program's table."""
    inputs = program.inputs
    return predict_rows(program.predict_step, variables, inputs.loader, inputs.eval_rows[rows], program.predict_batch)


def _diverged(run: Run, last: int | None, what: str) -> Diverged:
    good = f"the last good checkpoint is of step {last}" if last is not None else "there is no checkpoint yet"
    return Diverged(f"{what}; {good}, in {run.folder / 'checkpoints'}. Start a new run with a lower --learning-rate")


def _train_epoch(
    program: Program, state: TrainState, epoch: int, progress: Progress, run: Run, caught: list[int]
) -> TrainState:
    """Do the remaining steps of an epoch, or those until a signal is caught.

    To keep the device busy, the flags that are checked after a call are those of the call two before: whether the loss
    was NaN, and whether any process had caught a signal. So all processes stop at the same step; one by itself stops at
    once.
    """
    view_rows, size = program.inputs.view_rows, run.config.batch_size
    epoch_rows = replicate(epoch_batches(view_rows, run.config.seed, epoch, size), program.mesh)
    steps = len(epoch_rows.rows)
    before = (epoch - 1) * steps
    done = int(state.step) - before
    if done == 0:
        state = start_epoch(state)
    flags: deque[Any] = deque()
    stop = False
    started = time.perf_counter()
    bar = tqdm(total=steps, initial=done, desc=f"epoch {epoch}/{run.config.epochs}", leave=False, disable=None)
    with bar, Watchdog(lambda: f"epoch {epoch}, after {bar.n} of {steps} steps") as watchdog:
        for first, end, train_steps in _stretches(program.phases, before, done, steps):
            count = max(count for count in train_steps if (end - first) % count == 0)
            with closing(step_batches(program.inputs.loader, epoch_rows, first, end, count)) as arguments:
                for batch in arguments:
                    state, bad = train_steps[count](state, *batch)
                    flags.append((block_if_multi_cpu(bad), any_process(bool(caught), program.mesh)))
                    bar.update(count)
                    watchdog.beat()
                    stop = (cluster.count() == 1 and bool(caught)) or (len(flags) > 2 and _is_over(*flags.popleft()))
                    if stop:
                        break
            if stop:
                break
    jax.block_until_ready(state)
    progress.train_s += time.perf_counter() - started
    earlier, later = (min(step * size, len(view_rows)) for step in (done, int(state.step) - before))
    progress.images += later - earlier
    return state


def _is_over(bad: Any, stopped: Any) -> bool:
    return int(bad) >= 0 or bool(stopped)


def _stretches(
    phases: Sequence[PhaseSteps], before: int, done: int, steps: int
) -> Iterator[tuple[int, int, Mapping[int, TrainStep]]]:
    """Yield (first, end, compiled steps) of the epoch's remaining steps, split where an unfreezing phase ends."""
    for phase, train_steps in phases:
        first, end = max(done, phase.first - before), min(steps, phase.end - before)
        if first < end:
            yield first, end, train_steps


def _validate(
    program: Program, state: TrainState, best: Variables, epoch: int, progress: Progress, run: Run
) -> Variables:
    """Add the epoch to the history; the better of `best` and the current average, by validation MAE."""
    rows = program.records.rows_of("validation")
    prediction = predict_at(program, state.average, rows).age
    validation = scores(prediction, program.records.age[rows])
    line = {
        "epoch": epoch,
        "step": int(state.step),
        "train_loss": float(state.loss_sum / state.loss_weight),
        "learning_rate": float(program.schedule(int(state.step) - 1)),
        "validation": validation,
    }
    before = min((past["validation"]["mae"] for past in progress.history), default=math.inf)
    improved = validation["mae"] is not None and validation["mae"] < before
    progress.history.append(line)
    if improved:
        progress.best_epoch = epoch
        best = _copy(state.average)
    rate = progress.images / progress.train_s
    run.log(
        f"epoch {epoch:>3}  loss {line['train_loss']:.4f}  validation {scores_line(validation)}  {rate:.0f} images/s"
        + "  *" * improved
    )
    return best


def _copy(variables: Variables) -> Variables:
    """A copy that outlives the donation of the original to the next step."""
    copied: Variables = jax.tree.map(lambda leaf: leaf.copy(), variables)
    return copied


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
