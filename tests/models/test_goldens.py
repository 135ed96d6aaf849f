"""What torchvision's networks gave for the recipe's weights and images, kept in tests/goldens, without torch."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxage.models.ops.conv import ConvForm
from jaxage.models.registry import create_model
from jaxage.pretrained.convert import to_flax, to_torch
from jaxage.types import Arch, Variables
from jaxage.utils.trees import flatten
from tests.goldens.recipe import SIZES, images, random_state, sample, targets
from tests.models.evaluate import forward, gradient, shapes

FOLDER = Path(__file__).parents[1] / "goldens"
ARCHS = ("resnet18", "mobilenet_v2")
CASES = [(arch, size) for arch in ARCHS for size in SIZES]


def variables(arch: Arch) -> Variables:
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes(arch))
    state = random_state({name: value.shape for name, value in to_torch(empty).items()})
    return to_flax(state, arch).variables


def golden(arch: Arch, case: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{arch}.npz") as file:
        return {name.removeprefix(case + "/"): file[name] for name in file.files if name.startswith(case + "/")}


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("arch", "size"), CASES)
def test_stages_and_statistics(arch: Arch, size: tuple[int, int], train: bool) -> None:
    wanted = golden(arch, f"{size[0]}x{size[1]}/{'train' if train else 'eval'}")
    ours = forward(arch, variables(arch), images(size), train=train)
    found = {f"stages/{name}": value for name, value in ours.stages.items()}
    if train:
        found |= {f"batch_stats/{name}": value for name, value in flatten(ours.batch_stats).items()}
    assert found.keys() == {name for name in wanted if not name.startswith("gradient/")}
    for name, value in found.items():
        _assert_close(sample(value), wanted[name], 1e-4, name)


@pytest.mark.parametrize(("arch", "form"), [("resnet18", "cpu"), ("mobilenet_v2", "cpu"), ("mobilenet_v2", "gpu")])
def test_gradients(arch: Arch, form: ConvForm) -> None:
    size = SIZES[0]
    wanted = golden(arch, f"{size[0]}x{size[1]}/train")
    ours = flatten(gradient(arch, variables(arch), images(size), targets(), train=True, form=form))
    assert {f"gradient/{name}" for name in ours} == {name for name in wanted if name.startswith("gradient/")}
    for name, value in ours.items():
        _assert_close(sample(value), wanted[f"gradient/{name}"], 1e-5, name, floor=1e-10)


def test_bfloat16_is_finite_for_large_images_too() -> None:
    """Of large maps of bfloat16, JAX 0.11 on a CPU gave NaN."""
    model = create_model("resnet18", dtype="bfloat16")
    weights = model.init(jax.random.key(0))
    logits = jax.jit(lambda x: model.apply(weights, x).logits)(jax.random.normal(jax.random.key(1), (1, 256, 256, 3)))
    assert np.isfinite(logits).all()


def _assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float, name: str, floor: float = 0) -> None:
    """Within `tolerance` of the largest magnitude, which is the last number of a sample."""
    assert np.abs(ours - theirs).max() <= tolerance * theirs[-1] + floor, name
