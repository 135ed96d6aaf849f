from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxage.commands.explain import age_map, explain, map_unit
from jaxage.commands.predict import predict
from jaxage.losses import make_objective
from jaxage.models.registry import create_model
from jaxage.training.export import ModelConfig, export_model
from jaxage.types import Arch, UserError
from tests.models.test_goldens import variables as golden_variables
from tests.tiny import tiny_model


def test_after_pooling_the_map_is_the_age_place_by_place() -> None:
    """With global pooling and a linear head, the places' evidence adds up to the age less the bias: nothing is lost."""
    model, objective = create_model("resnet18"), make_objective("l1", 40.0, 20.0)
    variables: Any = jax.tree.map(jnp.asarray, golden_variables("resnet18"))
    variables["params"]["fc"] = {"kernel": jnp.full((512, 1), 0.01), "bias": jnp.asarray([0.5])}
    images = jax.random.normal(jax.random.key(0), (2, 96, 96, 3))
    ages, maps = age_map(model, objective, "avgpool", variables, images)
    assert maps.shape == (2, 3, 3)
    np.testing.assert_allclose(ages, objective.predict(model.apply(variables, images).logits), rtol=1e-4)
    np.testing.assert_allclose(maps.sum((1, 2)), ages - 40 - 0.5 * 20, rtol=1e-3)


def test_a_newborn_has_a_map_too() -> None:
    """Where the age is below 0 before clipping, the age shown is 0 and the map is that of the unclipped age."""
    model, objective = tiny_model(), make_objective("l1", 40.0, 20.0)
    variables: Any = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    _, before = age_map(model, objective, "layer4", variables, images)
    variables["params"]["fc"]["bias"] -= 100.0
    ages, maps = age_map(model, objective, "layer4", variables, images)
    assert (ages == 0).all()
    assert (maps != 0).any((1, 2)).all()
    np.testing.assert_allclose(maps, before, rtol=1e-6)


@pytest.mark.parametrize(
    ("arch", "size", "expected"),
    [
        ("resnet18", 224, ("avgpool", 7)),
        ("resnet18", 112, ("layer4.0", 7)),
        ("resnet18", 64, ("layer3.0", 8)),
        ("resnet18", 32, ("layer2.0", 8)),
        ("mobilenet_v2", 224, ("avgpool", 7)),
        ("mobilenet_v2", 112, ("features.14", 7)),
    ],
)
def test_the_deepest_map_that_is_no_blur_is_shown(arch: Arch, size: int, expected: tuple[str, int]) -> None:
    model = create_model(arch)
    assert map_unit(model, jax.eval_shape(model.init, jax.random.key(0)), size) == expected


def test_each_image_gets_a_picture_with_the_age_that_predict_gives(tmp_path: Path) -> None:
    contract = ModelConfig("resnet18", "dldl", 64, 40.0, 20.0, flip=True)
    export_model(tmp_path / "model", contract.model().init(jax.random.key(0)), contract, "card")
    rng = np.random.default_rng(0)
    files = [tmp_path / f"face {i}.jpg" for i in range(2)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (80, 70, 3), np.uint8)).save(file)
    said: list[str] = []
    written = explain(tmp_path, files, tmp_path / "out", "crop", said.append)
    assert written == [tmp_path / "out" / f"face {i}-explained.png" for i in range(2)]
    for picture, line, photo in zip(written, said[1:], predict(tmp_path, files, "crop"), strict=True):
        with Image.open(picture) as image:
            assert image.size == (1200, 720)
        assert float(line.split("\t")[1]) == pytest.approx(photo.faces[0].estimate.age, abs=0.06)
    twin = tmp_path / "elsewhere" / files[0].name
    with pytest.raises(UserError, match=r"several images would become face 0-explained\.png"):
        explain(tmp_path, [files[0], twin], tmp_path / "out")
    with pytest.raises(UserError, match="no images"):
        explain(tmp_path, [], tmp_path / "out")
    with pytest.raises(UserError, match="1 of the images gave no picture"):
        explain(tmp_path, [tmp_path / "none.jpg", files[0]], tmp_path / "out", "crop", said.append)
    assert said[-2].startswith(f"{tmp_path / 'none.jpg'}\tNo such file")
    assert said[-1].startswith(f"{files[0]}\t")
