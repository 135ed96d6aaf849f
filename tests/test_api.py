"""`import jaxage` as a programmer uses it: every public name, and a network, a loss and a metric of one's own."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxage
from tests.faces import write_faces
from tests.tiny import TINY

EARLIER = ("Contract", "live_batch_norms")


@pytest.mark.parametrize("name", jaxage.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(jaxage, name)
    assert name in dir(jaxage)
    if callable(value):
        assert value.__doc__
        assert value.__name__ == name or name in EARLIER


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        jaxage.trian  # noqa: B018
    code = "from jaxage import *; import jaxage.commands.train; import jaxage; assert train is jaxage.train"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("own_cache")
def test_a_network_a_loss_and_a_metric_of_ones_own_without_editing_jaxage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_cosh(z: jaxage.Objective, age: jnp.ndarray, mean: float, std: float) -> jnp.ndarray:
        return jnp.log(jnp.cosh(z[:, 0] - (age - mean) / std))

    def median_error(prediction: jnp.ndarray, target: jnp.ndarray, weight: jnp.ndarray | None = None) -> jnp.ndarray:
        error = jnp.abs(prediction - target)
        return jnp.nanmedian(error if weight is None else jnp.where(weight > 0, error, jnp.nan))

    loss = jaxage.Loss("log-cosh", 1, log_cosh, lambda z, mean, std: z[:, 0] * std + mean, "z * age_std + age_mean")
    monkeypatch.setitem(jaxage.MODELS, "mine", TINY)
    monkeypatch.setitem(jaxage.LOSSES, "mine", loss)
    monkeypatch.setitem(jaxage.METRICS, "median", jaxage.Metric(median_error, "MedAE", "years", 2, False))
    data, said = write_faces(tmp_path / "data", n=40), list[str]()
    config = jaxage.TrainConfig(
        arch="mine",
        loss="mine",
        trainable="fc,layer4",
        weights="random",
        data=data,
        out=tmp_path / "run",
        image_size=32,
        epochs=1,
    )
    report = jaxage.train(config, said.append)
    low, high = report["test"]["median_ci95"]
    assert low <= report["test"]["median"] <= high
    assert any("MedAE" in line and "epoch" in line for line in said)
    assert any("MedAE" in line and "test" in line for line in said)
    assert jaxage.evaluate(tmp_path / "run")["median"] == pytest.approx(report["test"]["median"], rel=1e-4)
    (photo,) = jaxage.predict(tmp_path / "run", [tmp_path / "data" / "faces" / "000.png"], "crop")
    assert np.isfinite(photo.faces[0].estimate.age)
