from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxage.losses import age_density
from jaxage.report.balance import balance_plot, balance_trade, mean_trade
from jaxage.types import Predictions

YEARS = np.arange(101)


def beliefs(age: np.ndarray, sigma: float, density: np.ndarray) -> Predictions:
    """What a network that knows a noisy age and the density of ages believes, by Bayes' rule."""
    noisy = age + np.random.default_rng(0).normal(0, sigma, len(age))
    likelihood = np.exp(-((YEARS[None] - noisy[:, None]) ** 2) / (2 * sigma**2))
    posterior = (likelihood * density / (likelihood * density).sum(1, keepdims=True)).astype(np.float32)
    return Predictions((posterior @ YEARS).astype(np.float32), posterior)


def test_old_people_gain_and_the_middle_loses(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    train = rng.normal(35, 12, 5000).clip(0, 100).astype(np.float32)
    age = np.r_[rng.normal(35, 12, 2000), rng.uniform(71, 95, 200)].clip(1, 100).astype(np.float32)
    predicted = beliefs(age, 8.0, age_density(train))
    points = balance_trade(predicted, age, train, 0.0)
    assert points[0]["all"] == pytest.approx(np.abs(predicted.age - age).mean(), abs=1e-3)
    old, middle = ([point[name] for point in points] for name in ("over 70", "18-70"))
    assert old[0] > old[4] + 1
    assert middle == sorted(middle)
    assert balance_trade(predicted, age, train, 0.2)[4]["all"] == pytest.approx(points[0]["all"], abs=1e-9)
    balance_plot(tmp_path / "balance.png", points, 0.0)
    with Image.open(tmp_path / "balance.png") as picture:
        assert picture.size == (1200, 750)
    assert mean_trade([points, points])[3] == pytest.approx(points[3])


def test_what_has_no_trade() -> None:
    age = np.float32([20, 30])
    ages_alone = Predictions(age, np.zeros((2, 0), np.float32))
    assert balance_trade(ages_alone, age, age, 0.0) == []
    young = balance_trade(Predictions(age, np.full((2, 101), 1 / 101, np.float32)), age, age, 0.0)
    assert young[0]["over 70"] is None
    assert mean_trade([young, []]) == []
