"""What training carries from step to step: arrays only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxage.types import Params, Variables


class TrainState(NamedTuple):
    """The state of training.

    step: steps done. params, batch_stats: of the whole network, frozen layers included. opt_state: optax's.
    average: the exponential moving average of `params` and `batch_stats`. loss_sum, loss_weight: of this epoch so far.
    bad_step: the first step whose loss was NaN or inf, -1 if there is none.
    """

    step: Int[Array, ""]
    params: Params
    batch_stats: Params
    opt_state: Any
    average: Variables
    loss_sum: Float[Array, ""]
    loss_weight: Float[Array, ""]
    bad_step: Int[Array, ""]


def init_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        average={name: jax.tree.map(jnp.array, variables[name]) for name in ("params", "batch_stats")},
        loss_sum=jnp.float32(0),
        loss_weight=jnp.float32(0),
        bad_step=jnp.int32(-1),
    )


def start_epoch(state: TrainState) -> TrainState:
    """The same state with the loss sums at zero."""
    return state._replace(loss_sum=jnp.zeros_like(state.loss_sum), loss_weight=jnp.zeros_like(state.loss_weight))
