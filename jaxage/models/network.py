"""What jaxage knows of a network: the entries of `jaxage.models.registry.MODELS`."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn


@dataclass(frozen=True)
class Network:
    """One network: how to build it, and what tables, help and checks need to know of it.

    Attributes:
        module: Builds the Flax module from the keyword arguments `outputs` (width of the head), `train_bn` (paths of
            the BatchNorm modules in training mode), `dtype` (of the trunk), `units` (those to run) and `conv_form`.
            The module is called with an input and `dropout: bool`, and returns what its last unit gives and a dict of
            the activations of its stages.
        title: The name for people, such as "ResNet18".
        paper: Where the network was published.
        stages: Names of the activations that can be read, from input to output.
        units: The network as a chain: each unit takes what the one before it gives.
        head: The last unit: the new layer that predicts ages.
    """

    module: Callable[..., nn.Module]
    title: str
    paper: str
    stages: tuple[str, ...]
    units: tuple[str, ...]
    head: str
