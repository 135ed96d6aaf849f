"""The two compiled functions: a training step and a prediction step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.stages import Wrapped
from jaxtyping import Array, Float, Int

from jaxage.data.loader import items_at
from jaxage.data.sampler import EpochBatches, EvalRows
from jaxage.losses import Objective
from jaxage.models.registry import Model
from jaxage.training.freeze import FROZEN, FreezePlan, ema_mask, stop_frozen
from jaxage.training.inputs import InputFn
from jaxage.training.state import TrainState
from jaxage.types import Ages, Items, Params, Probabilities, Variables
from jaxage.utils.sharding import along_batch, replicated

TrainStep = Callable[
    [TrainState, Items, Float[Array | np.ndarray, " faces"], EpochBatches], tuple[TrainState, Int[Array, ""]]
]


class PredictOutput(NamedTuple):
    """`jaxage.types.Predictions` on the device."""

    age: Ages
    probabilities: Probabilities


PredictStep = Callable[[Variables, Items, EvalRows], PredictOutput]


class StepOptions(NamedTuple):
    """How a training step runs.

    Attributes:
        mesh: the devices; the batch is split along them.
        seed: of augmentation and dropout; the step number is folded in.
        ema_decay: of the averaged parameters, 0 for none.
        steps_per_call: how many steps one call does.
        resident: whether all items lie on the devices (see `DataLoader`); otherwise a call gets one batch of them.
    """

    mesh: Mesh
    seed: int = 0
    ema_decay: float = 0.0
    steps_per_call: int = 1
    resident: bool = True


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    plan: FreezePlan,
    input_fn: InputFn,
    options: StepOptions,
) -> Wrapped:
    """Compile `step(state, items, ages, epoch) -> (state, bad_step)`; `state` is donated.

    Args:
        model: The network.
        objective: Turns logits and ages into a loss.
        optimizer: Of `make_optimizer`.
        plan: What learns, and which BatchNorm modules are in training mode.
        input_fn: Turns a batch of the loader's items into inputs of the first block that learns.
        options: Devices, seed, averaging, and steps per call.

    Returns:
        A jitted function. `items` and `ages` (n,) are all that the loader holds, where it puts them; the batch is row
        `state.step` of `epoch`, modulo its length. `bad_step` is returned separately, as the state itself is donated to
        the next call.
    """

    def step(state: TrainState, items: Items, ages: Float[Array, " faces"], epoch: EpochBatches) -> TrainState:
        input_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(options.seed), state.step))
        line = state.step % epoch.rows.shape[0]
        rows = epoch.rows[line]
        view_ids, weights = (lax.with_sharding_constraint(e[line], along_batch(options.mesh)) for e in epoch[1:])
        current = {"params": state.params, "batch_stats": state.batch_stats}
        faces = items_at(items, rows, options.mesh, resident=options.resident)
        known = lax.with_sharding_constraint(ages[rows] if options.resident else ages, along_batch(options.mesh))
        batch = lax.stop_gradient(input_fn.train(input_key, current, faces, view_ids))

        def loss(params: Params) -> tuple[Float[Array, ""], Params]:
            variables = current | {"params": stop_frozen(params, plan.labels)}
            output = model.apply(
                variables, batch, start=input_fn.start, train_bn=plan.train_bn, dropout_key=dropout_key
            )
            return objective.loss(output.logits, known, weights), output.batch_stats

        (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u, label: p if label == FROZEN else p + u, state.params, updates, plan.labels)
        variables = {"params": params, "batch_stats": batch_stats}
        bad = ~jnp.isfinite(value) & (state.bad_step < 0)
        return TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=move_average(state.average, variables, ema_mask(variables, plan), state.step, options.ema_decay),
            loss_sum=state.loss_sum + value * weights.sum(),
            loss_weight=state.loss_weight + weights.sum(),
            bad_step=jnp.where(bad, state.step, state.bad_step),
        )

    def steps(
        state: TrainState, items: Items, ages: Float[Array, " faces"], epoch: EpochBatches
    ) -> tuple[TrainState, Int[Array, ""]]:
        if options.steps_per_call == 1:
            state = step(state, items, ages, epoch)
        else:
            state, _ = lax.scan(lambda s, _: (step(s, items, ages, epoch), None), state, length=options.steps_per_call)
        return state, state.bad_step

    whole = replicated(options.mesh)
    return jax.jit(steps, in_shardings=(whole, None, None, whole), out_shardings=whole, donate_argnums=0)


def move_average(average: Variables, new: Variables, mask: Variables, step: Int[Array, ""], decay: float) -> Variables:
    """`average + (1 - d) (new - average)` with `d = min(decay, (1 + step) / (10 + step))`, where `mask` is true.

    The warm-up of the decay is TensorFlow's (`tf.train.ExponentialMovingAverage`): short runs are not ruined.
    """
    keep = jnp.minimum(decay, (1 + step) / (10 + step)) if decay else 0.0

    def moved(a: Array, b: Array, moves: bool) -> Array:
        return jnp.where(keep > 0, a + (1 - keep) * (b - a), b) if moves else a

    return jax.tree.map(moved, average, new, mask)


def make_predict_step(
    model: Model, objective: Objective, input_fn: InputFn, mesh: Mesh, *, resident: bool = True
) -> Wrapped:
    """Compile `predict(variables, items, eval_rows) -> PredictOutput`; BatchNorm uses its running statistics.

    A row of `eval_rows` has the place of a face in the loader and, if there is a second column, of its mirror image;
    age and probabilities are the means over both. `resident` is as in `StepOptions`.
    """

    def predict(variables: Variables, items: Items, eval_rows: EvalRows) -> PredictOutput:
        rows = jnp.asarray(eval_rows).reshape(-1)
        mirrored = jnp.arange(rows.size) % eval_rows.shape[1] == 1
        batch = input_fn.evaluate(variables, items_at(items, rows, mesh, resident=resident), mirrored)
        logits = model.apply(variables, batch, start=input_fn.start).logits
        probabilities = objective.probabilities(logits)
        return PredictOutput(
            age=objective.predict(logits).reshape(eval_rows.shape).mean(1),
            probabilities=probabilities.reshape(*eval_rows.shape, probabilities.shape[1]).mean(1),
        )

    whole = replicated(mesh)
    return jax.jit(predict, in_shardings=(whole, None, whole), out_shardings=whole)
