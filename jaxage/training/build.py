"""From settings, data and weights to a compiled program and its first state."""

import time
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxage.config import TrainConfig, cache_folder
from jaxage.data.dataset import Dataset
from jaxage.data.loader import DataLoader, device_budget, load_batches, make_loader, measure_rate, step_batches
from jaxage.data.records import SPLITS, Records
from jaxage.data.sampler import epoch_batches
from jaxage.losses import Objective, balance_ages
from jaxage.pretrained.load import RANDOM
from jaxage.training.cache_policy import TrainInputs, choose_inputs
from jaxage.training.feature_cache import FrozenTrunk
from jaxage.training.freeze import describe, ema_mask, trainable_mask
from jaxage.training.loop import PhaseSteps, Program, steps_per_epoch
from jaxage.training.optimizer import make_optimizer, make_schedule
from jaxage.training.setup import InitialModel, Setup
from jaxage.training.state import TrainState, init_state
from jaxage.training.step import PredictStep, StepOptions, make_predict_step, make_train_step
from jaxage.training.unfreeze import make_phases, parse_unfreeze, plan_in
from jaxage.training.view_index import ViewIndex
from jaxage.types import Json, Log
from jaxage.utils.sharding import inference_batch, replicate
from jaxage.utils.trees import count

_MOST_STEPS_PER_CALL = 64
_HEAD_BATCH = 4096


class Built(NamedTuple):
    """A compiled program, its first state, and two parts of the report: about the network, and about times."""

    program: Program
    state: TrainState
    network: Json
    timing: Json


def build(
    config: TrainConfig,
    setup: Setup,
    dataset: Dataset,
    initial: InitialModel,
    log: Log,
    schedule: optax.Schedule | None = None,
) -> Built:
    """Choose images or cached features, compile the steps, and make the first state.

    Args:
        config: The settings.
        setup: From `check_settings`: what learns, and the devices.
        dataset: Images and ages.
        initial: The network before the first step, from `initialize`.
        log: The logger.
        schedule: Replaces the config's learning rate.
    """
    model_config, variables, _ = initial
    plan, mesh = setup.plan, setup.mesh
    model, objective, records = model_config.model(), model_config.objective(), dataset.records
    log(_summary(config, dataset))
    log(describe(variables, plan))
    steps = steps_per_epoch(config, records)
    total = config.epochs * steps
    firsts = parse_unfreeze(config.unfreeze, plan.groups, total)
    optimizer = make_optimizer(config, plan, total, firsts, schedule)
    state = replicate(init_state(variables, optimizer), mesh)

    inputs = _choose_inputs(config, setup, dataset, initial, state, log)
    stream = None if inputs.loader.resident else measure_rate(inputs.loader, config.batch_size)
    if stream is not None:
        log(f"more than the memory budget allows: streamed, up to {stream:,.0f} images a second")

    started = time.perf_counter()
    goal = _training_goal(config, objective, records)
    most = steps_per_call(steps, inputs.loader)
    phases = []
    for phase in make_phases(firsts, total):
        phase_plan = plan_in(phase, plan, variables["batch_stats"], config.frozen_bn)
        train_steps: dict[int, Any] = {
            n: make_train_step(
                model,
                goal,
                optimizer,
                phase_plan,
                inputs.input_fn,
                StepOptions(mesh, config.seed, config.ema, n, inputs.loader.resident),
            )
            for n in {1, most}
        }
        train_steps[most] = train_steps[most].lower(state, *_first_batch(config, inputs, most)).compile()
        phases.append(PhaseSteps(phase, train_steps))
    predict, predict_batch = _compile_predict(config, initial, inputs, state)
    compile_s = time.perf_counter() - started
    log(f"compiled in {compile_s:.1f} s")

    schedule = schedule or make_schedule(config, total)
    program = Program(records, inputs, phases, predict, predict_batch, schedule, ema_mask(variables, plan), mesh)
    trainable_sizes = jax.tree.map(lambda leaf, on: leaf.size * on, variables["params"], trainable_mask(plan.labels))
    network = {
        "parameters": count(variables["params"]),
        "trainable_parameters": sum(jax.tree.leaves(trainable_sizes)),
        "frozen_bn": config.frozen_bn,
    }
    return Built(program, state, network, {"compile_s": compile_s, "stream_images_per_s": stream})


def _choose_inputs(
    config: TrainConfig, setup: Setup, dataset: Dataset, initial: InitialModel, state: TrainState, log: Log
) -> TrainInputs:
    records, model_config = dataset.records, initial.model_config
    index = ViewIndex(len(records), records.rows_of("train"), config.views, config.flip)
    trunk = FrozenTrunk(
        model=model_config.model(),
        variables={"params": state.params, "batch_stats": state.batch_stats},
        contract=model_config.input(),
        start=setup.plan.first_block,
        loader=make_loader(dataset.images, records.age, setup.mesh, device_budget(setup.mesh, config.memory_budget)),
        data_sha256=dataset.sha256,
        kinds=index.kinds,
        seed=config.seed,
    )
    train, validation, test = (len(records.rows_of(split)) for split in SPLITS)
    tested = (config.epochs * validation + validation + test) * (1 + config.flip)
    seen = config.epochs * train + tested
    return choose_inputs(config, trunk, index, seen, cache_folder() / "features", log)


def _compile_predict(
    config: TrainConfig, initial: InitialModel, inputs: TrainInputs, state: TrainState
) -> tuple[PredictStep, int]:
    """The prediction step, and how many faces it takes: many where only the head is left to compute."""
    model, objective = initial.model_config.model(), initial.model_config.objective()
    mesh = inputs.loader.mesh
    head_only = inputs.place != "off" and inputs.input_fn.start == model.spec.head
    size = inference_batch(mesh, _HEAD_BATCH if head_only else config.batch_size)
    eval_rows = np.zeros((size, 1 + config.flip), np.int32)
    ((items, _, _),) = load_batches(inputs.loader, [eval_rows.ravel()])
    step = make_predict_step(model, objective, inputs.input_fn, mesh, resident=inputs.loader.resident)
    compiled: Any = step.lower(state.average, items, eval_rows).compile()
    return compiled, size


def resolve(config: TrainConfig, initial: InitialModel, built: Built) -> TrainConfig:
    """The settings with the chosen value in place of every "auto"."""
    return replace(
        config,
        weights=config.weights if initial.weights["sha256"] else RANDOM,
        dtype=initial.model_config.dtype,
        cache_features=built.program.inputs.place,
    )


def run_inputs(command: str, dataset: Dataset, initial: InitialModel) -> Json:
    """What identifies the inputs of a run: a run is resumed with the same only."""
    contract = {
        name: list(x) if isinstance(x, tuple) else x for name, x in initial.model_config.input()._asdict().items()
    }
    return {"command": command, "data": dataset.sha256, "weights": initial.weights, "input": contract}


def steps_per_call(steps: int, loader: DataLoader) -> int:
    """How many steps the device does in one call: the largest divisor of an epoch's steps, up to 64.

    One on the CPU, where XLA's convolutions are slow inside a loop and a call costs nothing beside them, and one where
    batches are streamed.
    """
    if not loader.resident or loader.mesh.devices.flat[0].platform == "cpu":
        return 1
    return max(divisor for divisor in range(1, _MOST_STEPS_PER_CALL + 1) if steps % divisor == 0)


def _first_batch(config: TrainConfig, inputs: TrainInputs, steps: int) -> Any:
    epoch = epoch_batches(inputs.view_rows, config.seed, 1, config.batch_size)
    return next(step_batches(inputs.loader, epoch, 0, len(epoch.rows), steps))


def _training_goal(config: TrainConfig, objective: Objective, records: Records) -> Objective:
    if not config.balance:
        return objective
    return balance_ages(objective, records.age[records.rows_of("train")], config.balance)


def _summary(config: TrainConfig, dataset: Dataset) -> str:
    counts = ", ".join(f"{len(dataset.records.rows_of(split))} {split}" for split in SPLITS)
    size = dataset.images.shape[1]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{dataset.name}: {counts} images of {size} px\n{config.arch}, {config.loss}, on {devices}:"
