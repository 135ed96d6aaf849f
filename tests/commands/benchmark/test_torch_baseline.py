import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxage.models.registry import MODELS, create_model
from jaxage.types import Arch
from jaxage.utils.trees import is_within
from tests.parity.reference import import_torchvision

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
AGES = RNG.uniform(0, 100, 8).astype(np.float32)


@pytest.fixture(autouse=True)
def _torchvision() -> None:
    import_torchvision()


@pytest.mark.parametrize(
    ("arch", "trainable", "modules"),
    [
        ("resnet18", "fc:0.5, layer4", ("fc.", "layer4.")),
        ("mobilenet_v2", "classifier", ("classifier.",)),
        ("resnet18", "all", ("",)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_learns_learns_and_the_rest_stays(arch: Arch, trainable: str, modules: Any, dtype: Any) -> None:
    from jaxage.commands.benchmark.torch_baseline import TorchModel, torch_available

    assert torch_available()
    torch = TorchModel(arch, trainable, IMAGES, AGES, dtype)
    before = {name: value.clone() for name, value in torch.network.state_dict().items()}
    torch.predict(np.arange(4))
    torch.train(np.arange(8))
    torch.wait()
    after = torch.network.state_dict()
    moved = {name for name in before if not torch_equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(modules)}
    assert tuple(torch.predict(np.arange(4)).shape) == (4,)


def test_torchvision_has_every_network() -> None:
    from jaxage.commands.benchmark.torch_baseline import build

    for arch in MODELS:
        head = create_model(arch).spec.head
        biases = {name: value for name, value in build(arch).named_parameters() if name.endswith("bias")}
        assert [tuple(value.shape) for name, value in biases.items() if is_within(name, head)] == [(1,)]


def torch_equal(a: Any, b: Any) -> bool:
    return bool((a == b).all())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its workers fork, which JAX minds
@pytest.mark.filterwarnings("ignore:os.fork")
def test_the_usual_loop_goes_from_files_to_test_error(tmp_path: Path) -> None:
    from jaxage.commands.benchmark.torch_baseline import UsualLoop, build, usual_loop

    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    lines = [f"{i}.png,{age:.0f},{split}" for i, (age, split) in enumerate(zip(AGES, splits, strict=True))]
    (tmp_path / "faces.csv").write_text("path,age,split\n" + "\n".join(lines) + "\n")
    for i, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    trunk = {name: value.numpy() for name, value in build("resnet18").state_dict().items() if not name.startswith("fc")}
    np.savez(tmp_path / "trunk.npz", **trunk)
    said: list[str] = []
    loop = UsualLoop(str(tmp_path / "faces.csv"), "resnet18", "fc", 32, 2, 2, str(tmp_path / "trunk.npz"))
    found = usual_loop(loop, said.append)
    assert all(0 < value < 100 for value in found.values())
    lines = [json.loads(line) for line in said]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[-1]["validation"]["mae"] == found["validation_mae"]
