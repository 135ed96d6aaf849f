import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.losses import calibrate_ages, make_objective
from jaxage.training.calibration import Calibration, apply_calibration, cross_fit, fit_calibration
from jaxage.types import Predictions


def only_ages(age: np.ndarray) -> Predictions:
    return Predictions(age.astype(np.float32), np.zeros((len(age), 0), np.float32))


def test_a_line_is_found_among_wrong_labels() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(10, 70, 400).astype(np.float32)
    age = (0.8 * predicted + 5 + rng.normal(0, 2, 400)).astype(np.float32)
    age[:20] = 95
    scale, offset = fit_calibration(only_ages(predicted), age)
    assert scale == pytest.approx(0.8, abs=0.03)
    assert offset == pytest.approx(5, abs=1.2)
    constant = fit_calibration(only_ages(np.full(30, 40)), np.full(30, 47, np.float32))
    assert constant.scale * 40 + constant.offset == pytest.approx(47, abs=0.1)


@pytest.mark.parametrize("loss", ["huber", "dldl"])
@pytest.mark.parametrize("calibration", [Calibration(0.7, 12.0), Calibration(1.6, -30.0)])
def test_predictions_are_changed_as_the_objective_changes_them(loss: str, calibration: Calibration) -> None:
    plain = make_objective(loss, 40.0, 20.0)
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, (50, plain.outputs)), jnp.float32)
    before = Predictions(np.asarray(plain.unclipped(logits)), np.asarray(plain.probabilities(logits)))
    changed = calibrate_ages(plain, *calibration)
    age, probabilities = apply_calibration(before, calibration)
    np.testing.assert_allclose(changed.predict(logits), age, atol=1e-4)
    np.testing.assert_allclose(changed.probabilities(logits), probabilities, atol=1e-6)
    if loss == "dldl":
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
        inside = calibrate_ages(plain, 0.5, 20.0)  # no year leaves 0-100: the mean is moved exactly
        np.testing.assert_allclose(inside.predict(logits), 0.5 * plain.predict(logits) + 20, atol=1e-3)


@pytest.mark.parametrize("people", [400, 40])
def test_a_calibration_helps_where_ages_are_off_and_not_where_they_are_right(people: int) -> None:
    rng = np.random.default_rng(1)
    right = only_ages(rng.uniform(20, 80, 400))
    age = (right.age + rng.normal(0, 5, 400)).astype(np.float32)
    cluster = (np.arange(400) % people).astype(np.int32)
    off = only_ages(0.8 * right.age + 14)
    found = cross_fit(off, age, cluster, 0.9)
    assert found["ci95"][1] < 0
    assert found["after"] < found["before"] - 1
    assert found["covered"] == pytest.approx(0.9, abs=0.05)
    assert cross_fit(right, age, cluster, 0.9)["ci95"][1] > 0


def test_a_person_is_never_on_two_sides() -> None:
    """Each person's ages are off by an offset of their own: it cannot be learned from other people."""
    rng = np.random.default_rng(2)
    cluster = np.repeat(np.arange(20), 20).astype(np.int32)
    predicted = only_ages(rng.uniform(20, 60, 400))
    age = (predicted.age + rng.normal(0, 8, 20)[cluster]).astype(np.float32)
    assert cross_fit(predicted, age, cluster, 0.9)["ci95"][1] > 0
