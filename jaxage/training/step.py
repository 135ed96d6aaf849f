"""The two compiled functions: a step of training and a step of prediction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.stages import Wrapped
from jaxtyping import Array, Float, Int

from jaxage.data.sampler import EpochBatches, EvalRows
from jaxage.losses import Objective
from jaxage.models.registry import Model
from jaxage.training.freeze import FROZEN, moving, stop_frozen
from jaxage.training.inputs import Source
from jaxage.training.state import TrainState
from jaxage.types import Ages, Items, Params, Variables
from jaxage.utils.sharding import along_batch, replicated

TrainStep = Callable[
    [TrainState, Items, Float[Array | np.ndarray, " n"], EpochBatches], tuple[TrainState, Int[Array, ""]]
]
PredictStep = Callable[[Variables, Items, EvalRows], Ages]


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    labels: Params,
    train_bn: frozenset[str],
    source: Source,
    *,
    average_decay: float,
    seed: int,
    mesh: Mesh,
    count: int = 1,
) -> Wrapped:
    """`step(state, items, ages, order) -> (state, bad_step)`, jit-compiled, `state` donated: `count` steps of training.

    `items` and `ages` (n,) are what the loader holds; the batch is line `state.step` of `order`, which begins anew after
    its last. The random key is that of `seed` folded with `state.step`. `bad_step` is the state's, to be read when the
    state is gone.
    """

    def step(state: TrainState, items: Items, ages: Float[Array, " n"], order: EpochBatches) -> TrainState:
        source_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        line = state.step % order.rows.shape[0]
        rows, view_ids, weights = (lax.with_sharding_constraint(each[line], along_batch(mesh)) for each in order)
        current = {"params": state.params, "batch_stats": state.batch_stats}
        batch = lax.stop_gradient(source.train(source_key, current, jnp.asarray(items)[rows], view_ids))

        def loss(params: Params) -> tuple[Float[Array, ""], Params]:
            variables = current | {"params": stop_frozen(params, labels)}
            output = model.apply(variables, batch, start=source.start, train_bn=train_bn, dropout_key=dropout_key)
            return objective.loss(output.logits, ages[rows], weights), output.batch_stats

        (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u, label: p if label == FROZEN else p + u, state.params, updates, labels)
        variables = {"params": params, "batch_stats": batch_stats}
        bad = ~jnp.isfinite(value) & (state.bad_step < 0)
        return TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=move_average(
                state.average, variables, moving(variables, labels, train_bn), state.step, average_decay
            ),
            loss_sum=state.loss_sum + value * weights.sum(),
            loss_weight=state.loss_weight + weights.sum(),
            bad_step=jnp.where(bad, state.step, state.bad_step),
        )

    def steps(
        state: TrainState, items: Items, ages: Float[Array, " n"], order: EpochBatches
    ) -> tuple[TrainState, Int[Array, ""]]:
        if count == 1:
            state = step(state, items, ages, order)
        else:
            state, _ = lax.scan(lambda state, _: (step(state, items, ages, order), None), state, length=count)
        return state, state.bad_step

    whole = replicated(mesh)
    return jax.jit(steps, in_shardings=whole, out_shardings=whole, donate_argnums=0)


def move_average(average: Variables, new: Variables, moves: Variables, step: Int[Array, ""], decay: float) -> Variables:
    """`average + (1 - d) (new - average)` with `d = min(decay, (1 + step) / (10 + step))`; leaves that do not move stay
    as they are.
    """
    keep = jnp.minimum(decay, (1 + step) / (10 + step)) if decay else 0.0

    def moved(a: Array, b: Array, moves: bool) -> Array:
        return jnp.where(keep > 0, a + (1 - keep) * (b - a), b) if moves else a

    return jax.tree.map(moved, average, new, moves)


def make_predict_step(model: Model, objective: Objective, source: Source, mesh: Mesh) -> Wrapped:
    """`predict(variables, items, eval_rows) -> ages`, jit-compiled, BatchNorm by running statistics.

    A line of `eval_rows` says where the loader has one face: as it is and, if there is a second column, as its mirror; the
    age is the mean over both.
    """

    def predict(variables: Variables, items: Items, eval_rows: EvalRows) -> Ages:
        rows = eval_rows.reshape(-1)
        batch = source.evaluate(variables, jnp.asarray(items)[rows], jnp.arange(rows.size) % eval_rows.shape[1] == 1)
        ages = objective.predict(model.apply(variables, batch, start=source.start).logits)
        return ages.reshape(eval_rows.shape).mean(1)

    whole, split = replicated(mesh), along_batch(mesh)
    return jax.jit(predict, in_shardings=(whole, whole, split), out_shardings=whole)
