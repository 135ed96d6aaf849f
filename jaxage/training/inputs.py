"""What the trainable part of a network takes: images through its frozen layers, or cached features."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxage.data.augment import augment, normalize, to_unit, view
from jaxage.models.registry import Model
from jaxage.types import Images, RawImages, Variables

Channels = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel of RGB in 0-1, as the weights expect."""

ViewIds = Int[Array, " batch"]
"""Which view of which training image is wanted: image number x views + view."""


class InputFn(NamedTuple):
    """How items of a loader become inputs of the block `start`, the first that learns.

    train: (key, variables, items, view_ids) -> inputs of the training step.
    evaluate: (variables, items, mirrored) -> inputs of a prediction, mirrored where `mirrored` is true. Cached features
        are returned as they are: mirrors have rows of their own.
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
) -> InputFn:
    """Inputs from uint8 images, which go through the frozen layers.

    Args:
        model: The network.
        channels: Mean and standard deviation that its weights expect.
        start: The first block that learns; by default the first of the network.
        use_augment: Draw crops, flips and colors anew at every step.
        views: Otherwise, each training image is one of this many fixed views (see `jaxage.data.augment.view`).
        seed: Of the random crops among the fixed views.
    """
    first = start or model.spec.units[0]

    def train(key: Array, variables: Variables, images: RawImages, view_ids: ViewIds) -> Array:
        if use_augment:
            return through_frozen(variables, augment(key, to_unit(images)))
        return through_frozen(variables, view(jax.random.key(seed), to_unit(images), view_ids, views))

    def through_frozen(variables: Variables, images: Images) -> Array:
        return model.features(variables, normalize(images, *channels), first)

    def evaluate(variables: Variables, images: RawImages, mirrored: Bool[Array, " batch"]) -> Array:
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return through_frozen(variables, to_unit(images))

    return InputFn(first, train, evaluate)


def from_features(start: str) -> InputFn:
    """Inputs that were computed before: features that the block `start` takes."""
    return InputFn(
        start, lambda key, variables, features, view_ids: features, lambda variables, features, mirrored: features
    )
