"""From settings, data and weights to what the loop needs: frozen, compiled, and the first state."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxage.config import TrainConfig, cache_folder
from jaxage.data.dataset import Dataset
from jaxage.data.loader import device_budget, load_batches, make_loader, measure_rate, step_batches
from jaxage.data.records import SPLITS
from jaxage.data.sampler import epoch_batches
from jaxage.losses import reweight_by_age
from jaxage.training.cache_policy import choose_inputs
from jaxage.training.export import ModelConfig
from jaxage.training.feature_cache import Prefix, TrainInputs
from jaxage.training.freeze import Group, describe, first_trainable_block, label_tree, train_bn_modules, trainable_mask
from jaxage.training.loop import Job, Stage, steps_per_epoch
from jaxage.training.optimizer import make_optimizer, make_schedule
from jaxage.training.state import TrainState, init_state
from jaxage.training.step import make_predict_step, make_train_step
from jaxage.training.unfreeze import labels_in, make_phases, parse_unfreeze
from jaxage.types import Log, LossName, Variables
from jaxage.utils.sharding import mesh_for, replicate
from jaxage.utils.trees import count, flatten

_MOST_PER_DISPATCH = 64
_HEAD_BATCH = 4096


def assemble(
    config: TrainConfig,
    folder: Path,
    dataset: Dataset,
    contract: ModelConfig,
    variables: Variables,
    groups: tuple[Group, ...],
    started: float,
    log: Log,
    schedule: optax.Schedule | None = None,
) -> tuple[Job, TrainState, dict[str, Any]]:
    """The loop's job, its first state, and facts for the report (`network` and `timing`).

    `schedule` takes the place of the config's learning rate.
    """
    model, objective, mesh = contract.model(), contract.objective(), mesh_for(config.batch_size)
    labels = label_tree(variables["params"], groups)
    train_bn = train_bn_modules(variables["batch_stats"], labels, config.frozen_bn)
    log(_plan(config, contract.loss, dataset))
    log(describe(variables["params"], labels, groups, train_bn, len(flatten(variables["batch_stats"])) // 2))
    steps = steps_per_epoch(config, dataset.records)
    total = config.epochs * steps
    firsts = parse_unfreeze(config.unfreeze, groups, total)
    optimizer = make_optimizer(config, groups, labels, total, firsts, schedule)
    state = replicate(init_state(variables, optimizer), mesh)
    prefix = Prefix(
        model=model,
        variables={"params": state.params, "batch_stats": state.batch_stats},
        channels=(contract.mean, contract.std),
        start=first_trainable_block(model.spec.units, labels, train_bn),
        loader=make_loader(dataset.images, dataset.records.age, mesh, device_budget(mesh, config.memory_budget)),
        train_rows=dataset.records.rows_of("train"),
        views=config.views,
        flip=config.flip,
        seed=config.seed,
    )
    train, validation, test = (len(dataset.records.rows_of(split)) for split in SPLITS)
    tested = (config.epochs * validation + validation + test) * (1 + config.flip)
    seen = config.epochs * train + tested
    inputs = choose_inputs(config, prefix, seen, dataset.sha256, cache_folder(), log)
    head_only = inputs.loader is not prefix.loader and inputs.source.start == model.spec.head
    stream = None if inputs.loader.resident else measure_rate(inputs.loader, config.batch_size)
    if stream is not None:
        log(f"more than the memory budget allows: streamed, up to {stream:,.0f} images a second")

    lowered = time.perf_counter()
    order = epoch_batches(inputs.view_rows, config.seed, 1, config.batch_size)
    most = steps_per_dispatch(steps, inputs)
    arguments = next(step_batches(inputs.loader, order, 0, len(order.rows), most))
    goal = objective
    if config.balance:
        goal = reweight_by_age(objective, dataset.records.age[dataset.records.rows_of("train")], config.balance)
    stages = []
    for phase in make_phases(firsts, total):
        now = labels_in(phase, labels)
        train_bn_now = train_bn_modules(variables["batch_stats"], now, config.frozen_bn)
        train_steps: dict[int, Any] = {
            count: make_train_step(
                model,
                goal,
                optimizer,
                now,
                train_bn_now,
                inputs.source,
                average_decay=config.ema,
                seed=config.seed,
                mesh=mesh,
                count=count,
            )
            for count in {1, most}
        }
        train_steps[most] = train_steps[most].lower(state, *arguments).compile()
        stages.append(Stage(phase, train_steps))
    predict: Any = make_predict_step(model, objective, inputs.source, mesh)
    predict_batch = -(-(_HEAD_BATCH if head_only else config.batch_size) // mesh.size) * mesh.size
    eval_rows = np.zeros((predict_batch, 1 + config.flip), np.int32)
    ((items, _, _),) = load_batches(inputs.loader, [eval_rows.ravel()])
    predict = predict.lower(state.average, items, eval_rows).compile()
    compile_s = time.perf_counter() - lowered
    log(f"compiled in {compile_s:.1f} s")

    learns = jax.tree.map(lambda leaf, on: leaf.size * on, variables["params"], trainable_mask(labels))
    network = {
        "parameters": count(variables["params"]),
        "trainable_parameters": sum(jax.tree.leaves(learns)),
        "frozen_bn": config.frozen_bn,
    }
    schedule = schedule or make_schedule(config, total)
    job = Job(config, folder, dataset.records, inputs, stages, predict, predict_batch, schedule, mesh, log, started)
    return job, state, {"network": network, "timing": {"compile_s": compile_s, "stream_images_per_s": stream}}


def steps_per_dispatch(steps: int, inputs: TrainInputs) -> int:
    """How many steps the device does at a time: the largest divisor of an epoch's steps, up to 64.

    One on the CPU, where XLA's convolutions are slow inside a loop and a dispatch costs nothing beside them, and one
    where batches are streamed.
    """
    if not inputs.loader.resident or inputs.loader.mesh.devices.flat[0].platform == "cpu":
        return 1
    return max(divisor for divisor in range(1, _MOST_PER_DISPATCH + 1) if steps % divisor == 0)


def _plan(config: TrainConfig, loss: LossName, dataset: Dataset) -> str:
    counts = ", ".join(f"{len(dataset.records.rows_of(split))} {split}" for split in SPLITS)
    size = dataset.images.shape[1]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{dataset.name}: {counts} images of {size} px\n{config.arch}, {loss}, on {devices}:"
