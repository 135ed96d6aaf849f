"""Results of a study without training: true ages, and predictions with a given error."""

from typing import Any

import numpy as np

from jaxage.commands.study.recipes import ModelSpec, Protocol
from jaxage.commands.study.summary import Result
from jaxage.data.dataset import Dataset
from jaxage.data.records import Records, make_records
from jaxage.metrics import METRICS
from jaxage.training.intervals import Bounds, coverage_report


def table(n: int = 400) -> Records:
    """Half of the rows are the test."""
    ages = np.random.default_rng(0).integers(1, 95, n).astype(float)
    return make_records(
        [f"{i:03}.jpg" for i in range(n)],
        ages.tolist(),
        identity=[f"person {i // 2}" for i in range(n)],
        split=["train"] * (n // 4) + ["validation"] * (n // 4) + ["test"] * (n // 2),
        gender=[("female", "male", "")[i % 3] for i in range(n)],
        labels={"ethnicity": [("one", "other <group>")[i % 2] for i in range(n)]},
    )


def dataset(records: Records | None = None) -> Dataset:
    """The table, or another, with noise for pictures."""
    records = table() if records is None else records
    images = np.random.default_rng(0).integers(0, 256, (len(records), 32, 32, 3), np.uint8)
    return Dataset("drawn <faces> & more", records, images, (), "sha", "given")


def made_up(protocol: Protocol, model: ModelSpec, seed: int, noise: float = 8.0, *, constant: bool = False) -> Result:
    """A finished run whose errors are normal with this standard deviation."""
    records = table()
    age = records.age[records.rows_of("test")]
    error = np.random.default_rng(seed).normal(0, noise, len(age))
    prediction = (np.full(len(age), 40.0) if constant else np.maximum(age + error, 0)).astype(np.float32)
    scores: dict[str, Any] = {name: float(metric.function(prediction, age)) for name, metric in METRICS.items()}
    history = [
        {"epoch": epoch, "train_loss": 1 / epoch, "learning_rate": 1e-3, "validation": {"mae": 5 + noise / epoch}}
        for epoch in (1, 2, 3)
    ]
    bounds = Bounds(prediction - np.float32(noise), prediction + np.float32(noise))
    intervals = coverage_report(bounds, age, 0.9) | {"constant_width": 2.5 * noise}
    report = {
        "test": {
            **{name: value if np.isfinite(value) else None for name, value in scores.items()},
            "intervals": intervals,
            "balance": [
                {"balance": x, "under 18": 4.0, "18-70": 5 + x, "over 70": 9 - x, "all": 5.0} for x in (0.0, 0.5)
            ],
        },
        "trainable_parameters": 1234567,
        "weights": {"tag": "random", "sha256": None},
        "settings": f"--arch {model.arch} --trainable {model.trainable}",
        "timing": {"total_s": 61.5},
        "data": {"sha256": "sha"},
    }
    return Result(protocol, model, seed, report, history, prediction)
