"""Weights, images and targets that anyone can draw again without torch, from nothing but names and shapes."""

import zlib
from collections.abc import Mapping

import numpy as np

OUTPUTS = 3
BATCH = 4
SIZES = ((64, 64), (97, 131))
SAMPLES = 16


def random_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A torch state dict: kernels scaled to keep activations sane, BatchNorm away from 0 and 1, counters at 0.

    Every tensor is seeded by its name, so that the order of `shapes` does not matter.
    """
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def images(size: tuple[int, int], batch: int = BATCH) -> np.ndarray:
    """(batch, height, width, 3) float32, uniform in +-2."""
    return uniform(f"images {size}", (batch, *size, 3), -2, 2)


def targets(batch: int = BATCH) -> np.ndarray:
    """(batch, OUTPUTS) float32: `loss` is the mean square difference of the logits from them."""
    return uniform("targets", (batch, OUTPUTS), -2, 2)


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Float32, seeded by `name`, from the one generator whose stream NumPy has promised never to change."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return generator.uniform(low, high, shape).astype(np.float32)


def sample(array: np.ndarray) -> np.ndarray:
    """(SAMPLES + 2,): values at fixed places of the flat array, its root mean square, and its largest magnitude."""
    flat = np.asarray(array, np.float64).ravel()
    places = np.random.RandomState(flat.size).randint(0, flat.size, SAMPLES)
    return np.array([*flat[places], np.sqrt(np.square(flat).mean()), np.abs(flat).max()], np.float32)


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    match name.rsplit(".", 1)[-1], len(shape):
        case "num_batches_tracked", _:
            return np.zeros((), np.int64)
        case "running_var", _:
            return uniform(name, shape, 0.5, 2)
        case "running_mean" | "bias", _:
            return uniform(name, shape, -0.5, 0.5)
        case "weight", 1:
            return uniform(name, shape, 0.5, 1.5)
        case "weight", _:
            bound = (6 / np.prod(shape[1:])) ** 0.5
            return uniform(name, shape, -bound, bound)
        case _:
            raise ValueError(f"no rule for {name} {shape}")
