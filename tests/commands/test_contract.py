"""What weights expect of an image travels from their file through training to the model and every prediction."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.commands.evaluate import EvaluateOptions, evaluate
from jaxage.commands.explain import explain
from jaxage.commands.predict import predict
from jaxage.commands.train import train
from jaxage.config import TrainConfig
from jaxage.data.decode import decode_image
from jaxage.models.registry import create_model
from jaxage.pretrained.load import PretrainedWeights, find_input, save_weights
from jaxage.training.export import load_model
from jaxage.training.run_folder import RunError
from jaxage.types import InputContract
from tests.faces import write_faces

OTHER = InputContract((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic", 0.8)

pytestmark = pytest.mark.usefixtures("own_cache", "tiny")


def save(path: Path, contract: InputContract) -> None:
    variables = jax.device_get(create_model("tiny").init(jax.random.key(3)))
    save_weights(path, PretrainedWeights(variables, "tiny.mine", "0" * 64, contract), "tiny")


def test_every_command_feeds_images_as_the_weights_expect(tmp_path: Path) -> None:
    weights, faces = tmp_path / "mine.safetensors", write_faces(tmp_path / "data", n=60)
    save(weights, OTHER)
    config = TrainConfig(
        arch="tiny",
        trainable="fc",
        weights=str(weights),
        data=faces,
        out=tmp_path / "run",
        image_size=32,
        epochs=1,
        flip=False,
        cache_features="disk",
    )
    report = train(config, lambda _: None)
    stored = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert InputContract(*(tuple(x) if isinstance(x := stored[n], list) else x for n in OTHER._fields)) == OTHER
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:4]
    files = [faces.parent / row["path"] for row in rows]
    variables, model_config = load_model(tmp_path / "run")
    pixels = np.stack([decode_image(path.read_bytes(), 32, interpolation="bicubic", crop=0.8) for path in files])
    images = (pixels.astype(np.float32) / 255 - np.float32(OTHER.mean)) / np.float32(OTHER.std)
    expected = model_config.objective().predict(model_config.model().apply(variables, jnp.asarray(images)).logits)
    np.testing.assert_allclose([float(row["prediction"]) for row in rows], expected, rtol=1e-4)
    ages = [photo.faces[0].estimate.age for photo in predict(tmp_path / "run", files, "crop")]
    np.testing.assert_allclose(ages, expected, rtol=1e-4)
    assert evaluate(tmp_path / "run")["mae"] == pytest.approx(report["test"]["mae"], rel=1e-4)
    assert evaluate(tmp_path / "run", EvaluateOptions(faces, "test"))["mae"] == pytest.approx(
        report["test"]["mae"], rel=1e-4
    )
    said: list[str] = []
    explain(tmp_path / "run", files[:1], tmp_path / "explained", "crop", said.append)
    assert float(said[-1].split("\t")[1]) == pytest.approx(float(expected[0]), abs=0.06)
    exported = tmp_path / "run" / "model" / "model.safetensors"
    assert find_input(exported, "tiny") == OTHER


def test_a_run_does_not_go_on_with_another_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, faces = tmp_path / "mine.safetensors", write_faces(tmp_path / "data", n=60)
    save(weights, OTHER)
    config = TrainConfig(
        arch="tiny", trainable="fc", weights=str(weights), data=faces, out=tmp_path / "run", image_size=32, resume=True
    )

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxage.commands.train._fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, lambda _: None)
    save(weights, OTHER._replace(crop=1.0))
    with pytest.raises(RunError, match=r"its input have changed|its input has changed"):
        train(config, lambda _: None)
