from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageChops

from jaxage.metrics import METRICS, Metric, mae
from jaxage.report.plots import age_histograms, curves, rates, scatter
from tests.report.pictures import ink, read

SCORES = {"plcc": 0.9, "srocc": 0.88, "mae": 5.0}


def ages(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 101, n).astype(np.float32)
    return 0.8 * target + 8 + rng.normal(0, 6, n), target


def epochs(n: int, **validation: float | None) -> list[dict[str, Any]]:
    values = [{"n": 9, "mae": 5 + 9 / e, "plcc": 1 - 0.5 / e, "srocc": 1 - 0.6 / e} for e in range(1, n + 1)]
    return [
        {"epoch": e, "train_loss": 1 / e, "learning_rate": 3e-4 / e, "validation": values[e - 1] | validation}
        for e in range(1, n + 1)
    ]


@pytest.mark.parametrize("n", [0, 1, 5, 2000, 2001])
def test_scatter(tmp_path: Path, n: int) -> None:
    scatter(tmp_path / "scatter.png", *ages(n), SCORES, "resnet18, fc: test")
    image = read(tmp_path / "scatter.png")
    assert image.size == (1050, 1050)
    assert 0.02 < ink(image) < 0.5


def test_scatter_draws_the_points_and_the_numbers(tmp_path: Path) -> None:
    def draw(prediction: np.ndarray, target: np.ndarray, plcc: float | None, title: str = "") -> Image.Image:
        scatter(tmp_path / "scatter.png", prediction, target, SCORES | {"plcc": plcc}, title)
        return read(tmp_path / "scatter.png")

    prediction, target = ages(5)
    first = draw(prediction, target, 0.9)
    assert ImageChops.difference(first, draw(prediction, target, 0.9)).getbbox() is None
    for other in (draw(prediction + 9, target, 0.9), draw(prediction, target, 0.7), draw(prediction, target, 0.9, "a")):
        assert ImageChops.difference(first, other).getbbox() is not None
    undefined = [draw(prediction, target, value) for value in (None, np.nan)]
    assert ImageChops.difference(*undefined).getbbox() is None


def test_scatter_puts_equal_ages_on_the_line(tmp_path: Path) -> None:
    age = np.arange(10.0, 90.0)
    scatter(tmp_path / "scatter.png", age, age, SCORES, "")
    orange = (np.asarray(read(tmp_path / "scatter.png")).astype(int) @ [1, 0, -1]) > 150
    rows, columns = np.nonzero(orange[:880])
    assert np.corrcoef(rows, columns)[0, 1] < -0.999
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("offset", [0.0, 900.0])
@pytest.mark.parametrize("n", [4, 3000])
def test_scatter_of_wild_predictions(tmp_path: Path, n: int, offset: float) -> None:
    prediction, target = ages(n)
    prediction[:2] = np.nan, np.inf
    scatter(tmp_path / "scatter.png", prediction + offset, target, {}, "a $title_ that goes on " * 5)
    assert read(tmp_path / "scatter.png").size == (1050, 1050)


def test_scatter_of_a_constant(tmp_path: Path) -> None:
    scatter(tmp_path / "scatter.png", np.full(3000, 33.5), np.full(3000, 40.0), {}, "constant")
    assert ink(read(tmp_path / "scatter.png")) > 0.02


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3, 1), (3,)), ((3, 1), (3, 1))])
def test_scatter_refuses_other_shapes(tmp_path: Path, shapes: Any) -> None:
    with pytest.raises(ValueError, match="two columns of one length"):
        scatter(tmp_path / "scatter.png", np.zeros(shapes[0]), np.zeros(shapes[1]), {}, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n", [1, 2, 41])
def test_curves(tmp_path: Path, n: int) -> None:
    curves(tmp_path / "curves.png", epochs(n), best_epoch=n)
    image = read(tmp_path / "curves.png")
    assert image.size == (1800, 1200)
    assert 0.01 < ink(image) < 0.5


def test_curves_mark_the_best_epoch(tmp_path: Path) -> None:
    pictures = []
    for best in (3, 5):
        curves(tmp_path / "curves.png", epochs(6), best_epoch=best)
        pictures.append(read(tmp_path / "curves.png"))
    left, _, right, _ = ImageChops.difference(*pictures).crop((0, 80, 1800, 1200)).getbbox() or (0, 0, 0, 0)
    assert right - left > 900


@pytest.mark.parametrize("missing", [None, np.nan])
def test_curves_with_undefined_metrics(tmp_path: Path, missing: float | None) -> None:
    gap = epochs(3)
    gap[1]["validation"]["plcc"] = missing
    for history in (gap, epochs(3, srocc=missing), epochs(3, mae=missing, plcc=missing, srocc=missing)):
        curves(tmp_path / "curves.png", history, best_epoch=2)
        assert ink(read(tmp_path / "curves.png")) > 0.01


@pytest.mark.parametrize(("n", "message"), [(0, "history: none"), (2, r"best epoch 3 is not .* \[1, 2\]")])
def test_curves_refuse_a_best_epoch_that_never_was(tmp_path: Path, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curves(tmp_path / "curves.png", epochs(n), best_epoch=3)


def test_the_global_style_is_left_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    curves(tmp_path / "curves.png", epochs(2), best_epoch=1)
    assert dict(matplotlib.rcParams) == before


def test_a_headline_of_ones_own_is_printed_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> list[Image.Image]:
        scatter(tmp_path / "scatter.png", *ages(5), SCORES | {"p90": 12.5}, "")
        curves(tmp_path / "curves.png", epochs(3, p90=12.5), best_epoch=2)
        return [read(tmp_path / name) for name in ("scatter.png", "curves.png")]

    before = draw()
    own = Metric(mae, "P90", "years", 1, higher_is_better=False, headline=True)
    monkeypatch.setitem(METRICS, "p90", own)
    for old, new in zip(before, draw(), strict=True):
        assert ImageChops.difference(old, new).getbbox() is not None


def test_age_histograms(tmp_path: Path) -> None:
    splits = {name: np.repeat(np.float32([1, 30, 64.5]), 5 * n) for name, n in (("train", 9), ("test", 1))}
    age_histograms(tmp_path / "ages.png", splits)
    image = read(tmp_path / "ages.png")
    assert image.size == (1200, 1200)
    blue = (np.asarray(image).astype(int) @ [-1, 0, 1]) > 120
    for panel in (blue[:560], blue[560:]):
        runs = np.flatnonzero(np.diff(panel.any(0).astype(int)) == 1)
        assert len(runs) in (3, 4)  # a bar for each age; the median's line divides one
    with pytest.raises(ValueError, match="no ages in test"):
        age_histograms(tmp_path / "none.png", {"train": splits["train"], "test": np.empty(0)})
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("suggestion", [None, 3e-3])
def test_rates(tmp_path: Path, suggestion: float | None) -> None:
    rate = np.logspace(-6, 0, 60)
    loss = (np.log10(rate) + 2) ** 2 + np.random.default_rng(0).normal(0, 0.5, 60)
    rates(tmp_path / "rates.png", rate, loss, loss, suggestion)
    image = read(tmp_path / "rates.png")
    assert image.size == (1350, 825)
    assert 0.02 < ink(image) < 0.5
