import numpy as np
import pytest

from jaxage.training.ridge import ridge

RNG = np.random.default_rng(0)
FEATURES = (RNG.normal(size=(200, 6)) * [1, 10, 0.1, 1, 1, 0] + [0, 100, 0, 0, -5, 3]).astype(np.float32)
TARGET = (FEATURES[:, 0] - 0.2 * FEATURES[:, 1] + RNG.normal(size=200)).astype(np.float32)


def test_it_is_the_minimum_of_error_and_strength_times_squared_weights() -> None:
    strengths = (1e-3, 0.1, 5.0)
    found = ridge(FEATURES, TARGET, strengths)
    std = FEATURES.astype(np.float64).std(0)
    kept = std > 0
    x = (FEATURES[:, kept] - FEATURES[:, kept].mean(0, dtype=np.float64)) / std[kept]
    for strength, kernel, bias in zip(strengths, *found, strict=True):
        expected = np.linalg.solve(x.T @ x / 200 + strength * np.eye(5), x.T @ (TARGET - TARGET.mean()) / 200)
        np.testing.assert_allclose(kernel[kept] * std[kept], expected, rtol=1e-5, atol=1e-7)
        assert kernel[~kept] == 0
        residual = TARGET - (FEATURES.astype(np.float64) @ kernel + bias)
        assert residual.mean() == pytest.approx(0, abs=1e-5)


def test_without_strength_it_is_least_squares_and_with_much_the_mean() -> None:
    found = ridge(FEATURES, TARGET, (1e-12, 1e12))
    design = np.column_stack([FEATURES[:, :5], np.ones(200)]).astype(np.float64)
    expected = np.linalg.lstsq(design, TARGET.astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(found.kernel[0, :5], expected[:5], rtol=1e-5)
    np.testing.assert_allclose(found.kernel[1], 0, atol=1e-6)
    assert found.bias[1] == pytest.approx(TARGET.mean(), rel=1e-5)
