"""AdamW over the label tree: each group at its rate, nothing for what is frozen."""

from typing import Any

import jax
import optax

from jaxage.config import TrainConfig
from jaxage.freeze import FROZEN, Group, trainable_mask
from jaxage.types import Params


def make_schedule(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then a cosine to 0 at `total_steps`."""
    warmup = min(round(config.warmup * total_steps), total_steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, total_steps)


def make_optimizer(
    config: TrainConfig, groups: tuple[Group, ...], labels: Params, total_steps: int
) -> optax.GradientTransformation:
    """`optax.multi_transform` over `labels`, after clipping by the global norm of what learns.

    Frozen leaves get `set_to_zero`, hence no moments; decay is for kernels alone (AdamW, arXiv:1711.05101).
    """
    schedule = make_schedule(config, total_steps)

    def adamw(group: Group) -> optax.GradientTransformation:
        return optax.adamw(
            lambda step: group.multiplier * schedule(step), weight_decay=config.weight_decay, mask=_kernels
        )

    transforms = {group.name: adamw(group) for group in groups} | {FROZEN: optax.set_to_zero()}
    clip = optax.masked(optax.clip_by_global_norm(config.clip), trainable_mask(labels))
    return optax.chain(clip, optax.multi_transform(transforms, labels))


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
