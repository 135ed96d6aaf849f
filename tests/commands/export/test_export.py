import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.commands.export import run as export_run
from jaxage.commands.export.run import export
from jaxage.pretrained.convert import to_flax, to_torch
from jaxage.training.export import ModelConfig, export_model, write_model_config
from jaxage.training.predictor import load_predictor
from jaxage.types import Framing, UserError
from tests.goldens.recipe import random_state

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CONFIG = ModelConfig("resnet18", "huber", 40, 35.0, 18.0, flip=True, framing=Framing(0.5, 0.5, 0.9))


def write(folder: Path, config: ModelConfig) -> Path:
    """A model with random weights whose ages differ from image to image."""
    model = config.model()
    fresh = jax.device_get(model.init(jax.random.key(0)))
    if config.arch != "tiny":
        shapes = {name: value.shape for name, value in to_torch(fresh).items()}
        fresh = to_flax(random_state(shapes), config.arch).variables
    export_model(folder / "model", fresh, config, "# a card\n")
    return folder


def images(count: int = 3, size: int = 40) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(size // 4, 1).repeat(size // 4, 2)


@pytest.mark.parametrize(
    ("config", "nodes"),
    [
        (replace(CONFIG, scale=1.5, offset=-8.0), 65),
        (
            replace(CONFIG, arch="mobilenet_v2", loss="dldl", flip=False, mean=(0.1, 0.5, 0.4), scale=0.5, offset=9.0),
            121,
        ),
    ],
    ids=lambda x: x.arch if isinstance(x, ModelConfig) else "",
)
def test_onnx_gives_what_predict_gives(config: ModelConfig, nodes: int, tmp_path: Path) -> None:
    out = export(write(tmp_path, config), "onnx", log=lambda _: None)
    model = onnx.load(out / "model.onnx")
    assert len(model.graph.node) <= nodes
    assert json.loads(model.metadata_props[0].value) == json.loads((tmp_path / "model" / "model.json").read_text())
    assert (out / "README.md").read_text() == "# a card\n"
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        found = session.run(None, {"images": images(count)})
        expected = load_predictor(tmp_path, 4, 0.9)(images(count))
        np.testing.assert_allclose(found[0], [each.age for each in expected], atol=2e-3)
        if config.has_distribution():
            np.testing.assert_allclose(found[1], [each.probabilities for each in expected], atol=1e-5)


def test_stablehlo_runs_in_another_process_without_jaxage(tmp_path: Path) -> None:
    """And in another JAX, where JAXAGE_OTHER_PYTHON names its Python."""
    config = replace(CONFIG, loss="dldl", dtype="bfloat16")  # exported in float32 all the same
    out = export(write(tmp_path, config), "stablehlo", log=lambda _: None)
    write_model_config(tmp_path / "model", replace(config, dtype="float32"))
    np.save(tmp_path / "images.npy", images())
    code = (
        "import sys, jax, numpy as np; from pathlib import Path; folder = Path(sys.argv[1]);"
        "function = jax.export.deserialize(bytearray((folder / 'model.stablehlo').read_bytes()));"
        "assert set(function.platforms) == {'cpu', 'cuda', 'tpu'};"
        "found = function.call(np.load(folder.parent / 'images.npy')); assert 'jaxage' not in sys.modules;"
        "np.savez(folder.parent / 'found.npz', **found)"
    )
    python = os.environ.get("JAXAGE_OTHER_PYTHON", sys.executable)
    subprocess.run([python, "-c", "import jax.export;" + code, str(out)], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    expected = load_predictor(tmp_path, 4, 0.9)(images())
    np.testing.assert_allclose(found["age"], [each.age for each in expected], atol=2e-3)
    np.testing.assert_allclose(found["probabilities"], [each.probabilities for each in expected], atol=1e-5)


def test_a_model_that_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_run, "run_onnx", lambda data, images: np.full(len(images), 1e3, np.float32))
    with pytest.raises(UserError, match="differs from JAX by"):
        export(write(tmp_path, CONFIG), "onnx", log=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("tiny")
def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", replace(CONFIG, arch="tiny"))
    with pytest.raises(UserError, match="ONNX forms are known of"):
        export(mine, "onnx", log=lambda _: None)
    with pytest.raises(UserError, match="neither timm nor torchvision"):
        export(mine, "torch", log=lambda _: None)
    (mine / "export-onnx").mkdir()
    (mine / "export-onnx" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        export(mine, "onnx", log=lambda _: None)
    said: list[str] = []
    export(mine, "stablehlo", log=said.append)
    assert "random images" in said[0]


def test_eight_bits_need_the_runs_images_and_say_what_they_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path, CONFIG)
    with pytest.raises(UserError, match="the run's data are gone"):
        export(run, "onnx-int8", log=lambda _: None)
    samples = export_run.Samples(images(8), images(64), np.full(8, 30, np.float32))
    monkeypatch.setattr(export_run, "_samples", lambda run, config: samples)
    monkeypatch.setattr(export_run, "_MAE_TOLERANCE_INT8", 50.0)  # random weights are hard on 8 bits
    said: list[str] = []
    out = export(run, "onnx-int8", log=said.append)
    assert "on average; their MAE is" in said[0]
    whole = export(run, "onnx", log=lambda _: None)
    assert (out / "model.int8.onnx").stat().st_size < 0.3 * (whole / "model.onnx").stat().st_size
    monkeypatch.setattr(export_run, "_MAE_TOLERANCE_INT8", -50.0)
    with pytest.raises(UserError, match="in 8 bits the MAE is"):
        export(run, "onnx-int8", tmp_path / "again", lambda _: None)


def test_the_card_goes_along_only_if_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, CONFIG)
    (tmp_path / "model" / "README.md").unlink()
    out = export(tmp_path / "model", "onnx", tmp_path / "here", lambda _: None)
    assert {path.name for path in out.iterdir()} == {"model.json", "model.onnx"}
    assert jnp.isfinite(load_predictor(tmp_path, 4, 0.9)(images())[0].age)
