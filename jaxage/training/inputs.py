"""How what a loader holds becomes what the learning part of a network takes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxage.data.augment import augment, normalize, to_unit, view
from jaxage.models.registry import Model
from jaxage.types import Images, RawImages, Variables

Channels = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each color, of pixels in 0-1, that the weights expect."""

ViewIds = Int[Array, " batch"]


class Source(NamedTuple):
    """start: the first unit of the learning part.

    train: (key, variables, items, view_ids) -> what that unit takes; `view_ids` say which view of which image is wanted.
    evaluate: (variables, items, mirrored) -> the same, of the images as they are or, where `mirrored`, turned round.
        Features are what they are: `jaxage.training.feature_cache.TrainInputs.eval_rows` says where those of mirrors are.
    """

    start: str
    train: Callable[[Array, Variables, Array, ViewIds], Array]
    evaluate: Callable[[Variables, Array, Bool[Array, " batch"]], Array]


def from_images(
    model: Model,
    channels: Channels,
    *,
    start: str | None = None,
    use_augment: bool = False,
    views: int = 1,
    seed: int = 0,
) -> Source:
    """From uint8 images, through the frozen prefix, if `start` is not the network's first unit (default).

    Training images are augmented anew each time (`use_augment`), or are one of `views` views that never change.
    """
    first = start or model.spec.units[0]

    def train(key: Array, variables: Variables, images: RawImages, view_ids: ViewIds) -> Array:
        if use_augment:
            return prefix(variables, augment(key, to_unit(images)))
        return prefix(variables, view(jax.random.key(seed), to_unit(images), view_ids, views))

    def prefix(variables: Variables, images: Images) -> Array:
        return model.features(variables, normalize(images, *channels), first)

    def evaluate(variables: Variables, images: RawImages, mirrored: Bool[Array, " batch"]) -> Array:
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return prefix(variables, to_unit(images))

    return Source(first, train, evaluate)


def from_features(start: str) -> Source:
    """From features of the frozen prefix, computed before."""
    return Source(
        start, lambda key, variables, features, view_ids: features, lambda variables, features, mirrored: features
    )
