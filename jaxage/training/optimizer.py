"""AdamW over the label tree: a learning rate for each group, nothing for frozen parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxage.config import TrainConfig
from jaxage.training.freeze import FROZEN, FreezePlan, Group, trainable_mask


def make_schedule(config: TrainConfig, total_steps: int, first: int = 0) -> optax.Schedule:
    """The learning rate over the steps: linear warm-up from 0, then cosine decay to 0.

    Args:
        config: Has the peak (`learning_rate`) and the share of warm-up steps (`warmup`).
        total_steps: The step at which the rate reaches 0.
        first: The step at which the group is unfrozen. Its schedule counts steps from there: it warms up by itself,
            and then follows the cosine of the other groups.
    """
    warmup = min(round(config.warmup * total_steps), total_steps - 1)
    base = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, total_steps)
    if not first:
        return base
    return lambda step: base(first + step) * jnp.minimum(1.0, (step + 1) / (warmup + 1))


def make_optimizer(
    config: TrainConfig,
    plan: FreezePlan,
    total_steps: int,
    firsts: Mapping[str, int] | None = None,
    schedule: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """`optax.multi_transform` over the plan's labels, after clipping by the global norm of what learns.

    AdamW (arXiv:1711.05101) decays kernels only. Frozen leaves get `set_to_zero`, hence no moments.

    Args:
        config: Has learning rate, warm-up, weight decay and the largest gradient norm (`clip`).
        plan: Has groups and labels.
        total_steps: How many steps the run has.
        firsts: The first step of each group by name (see `parse_unfreeze`). Until then it does not move, and its
            moments count no steps.
        schedule: Replaces the config's learning rate.
    """
    firsts = firsts or {}

    def adamw(group: Group) -> optax.GradientTransformation:
        first = firsts.get(group.name, 0)
        rate = schedule or make_schedule(config, total_steps, first)
        inner = optax.adamw(lambda step: group.multiplier * rate(step), weight_decay=config.weight_decay, mask=_kernels)
        return optax.conditionally_mask(inner, lambda step: step >= first) if first else inner

    transforms = {group.name: adamw(group) for group in plan.groups} | {FROZEN: optax.set_to_zero()}
    clip = optax.masked(optax.clip_by_global_norm(config.clip), trainable_mask(plan.labels))
    return optax.chain(clip, optax.multi_transform(transforms, plan.labels))


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
