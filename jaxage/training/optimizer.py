"""AdamW over the label tree: each group at its rate, nothing for what is frozen."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxage.config import TrainConfig
from jaxage.training.freeze import FROZEN, Group, trainable_mask
from jaxage.types import Params


def make_schedule(config: TrainConfig, total_steps: int, first: int = 0) -> optax.Schedule:
    """Of what learns from step `first` on, by steps since then: a linear warm-up from 0 to the cosine that falls from
    the peak to 0 between the first group's warm-up and `total_steps`.
    """
    warmup = min(round(config.warmup * total_steps), total_steps - 1)
    base = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, total_steps)
    if not first:
        return base
    return lambda step: base(first + step) * jnp.minimum(1.0, (step + 1) / (warmup + 1))


def make_optimizer(
    config: TrainConfig,
    groups: tuple[Group, ...],
    labels: Params,
    total_steps: int,
    firsts: Mapping[str, int] | None = None,
    schedule: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """`optax.multi_transform` over `labels`, after clipping by the global norm of what learns.

    Frozen leaves get `set_to_zero`, hence no moments; decay is for kernels alone (AdamW, arXiv:1711.05101). A group
    whose first step (`firsts`, by name) is to come neither moves nor counts steps in its moments. `schedule` takes the
    place of the config's.
    """
    firsts = firsts or {}

    def adamw(group: Group) -> optax.GradientTransformation:
        first = firsts.get(group.name, 0)
        rate = schedule or make_schedule(config, total_steps, first)
        inner = optax.adamw(lambda step: group.multiplier * rate(step), weight_decay=config.weight_decay, mask=_kernels)
        return optax.conditionally_mask(inner, lambda step: step >= first) if first else inner

    transforms = {group.name: adamw(group) for group in groups} | {FROZEN: optax.set_to_zero()}
    clip = optax.masked(optax.clip_by_global_norm(config.clip), trainable_mask(labels))
    return optax.chain(clip, optax.multi_transform(transforms, labels))


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
