"""The two compiled functions: a step of training and a step of prediction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.stages import Wrapped
from jaxtyping import Array, Float, Int, UInt8

from jaxage.data.augment import augment, normalise, to_unit
from jaxage.freeze import FROZEN, stop_frozen
from jaxage.losses import Objective
from jaxage.mesh import along_batch, replicated
from jaxage.models.registry import Model
from jaxage.state import TrainState
from jaxage.types import Ages, Params, Variables, Weights

Set = UInt8[Array, "n height width 3"]
Rows = Int[Array | np.ndarray, " batch"]
Channels = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each colour, of pixels in 0-1, that the weights expect."""

TrainStep = Callable[[TrainState, Set, Float[Array, " n"], Rows, Weights], TrainState]
PredictStep = Callable[[Variables, Set, Rows], Ages]


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    labels: Params,
    live: frozenset[str],
    channels: Channels,
    *,
    use_augment: bool,
    average_decay: float,
    seed: int,
    mesh: Mesh,
) -> Wrapped:
    """`step(state, images, ages, rows, weights) -> state`, jit-compiled, `state` donated.

    `images` (n, height, width, 3) uint8 and `ages` (n,) are the resident set; `rows` picks the batch and `weights` says
    which of its rows count in the loss. The random key is that of `seed` folded with `state.step`.
    """

    def step(state: TrainState, images: Set, ages: Float[Array, " n"], rows: Rows, weights: Weights) -> TrainState:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        batch = to_unit(images[rows])
        if use_augment:
            batch = augment(augment_key, batch)
        batch = normalise(batch, *channels)

        def loss(params: Params) -> tuple[Float[Array, ""], Params]:
            variables = {"params": stop_frozen(params, labels), "batch_stats": state.batch_stats}
            output = model.apply(variables, batch, live=live, dropout_key=dropout_key)
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
            average=move_average(state.average, variables, state.step, average_decay),
            loss_sum=state.loss_sum + value * weights.sum(),
            loss_weight=state.loss_weight + weights.sum(),
            bad_step=jnp.where(bad, state.step, state.bad_step),
        )

    whole, split = replicated(mesh), along_batch(mesh)
    return jax.jit(step, in_shardings=(whole, whole, whole, split, split), out_shardings=whole, donate_argnums=0)


def move_average(average: Variables, new: Variables, step: Int[Array, ""], decay: float) -> Variables:
    """`average + (1 - d) (new - average)` with `d = min(decay, (1 + step) / (10 + step))`; leaves that are equal stay
    bit-identical.
    """
    keep = jnp.minimum(decay, (1 + step) / (10 + step)) if decay else 0.0
    return jax.tree.map(lambda a, b: jnp.where((keep > 0) & (a != b), a + (1 - keep) * (b - a), b), average, new)


def make_predict_step(model: Model, objective: Objective, channels: Channels, mesh: Mesh) -> Wrapped:
    """`predict(variables, images, rows) -> ages` of the chosen rows, jit-compiled, BatchNorm by running statistics."""

    def predict(variables: Variables, images: Set, rows: Rows) -> Ages:
        batch = normalise(to_unit(images[rows]), *channels)
        return objective.predict(model.apply(variables, batch).logits)

    whole, split = replicated(mesh), along_batch(mesh)
    return jax.jit(predict, in_shardings=(whole, whole, split), out_shardings=whole)
