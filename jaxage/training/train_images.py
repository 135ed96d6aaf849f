"""Which images a run trained on, by the hashes of their files: what they show again is no test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxage.data.dataset import Dataset
from jaxage.types import RunPath
from jaxage.utils.files import write_text

_FILE = "train_images.txt"
_DIGITS = 16


def write_train_images(folder: Path, dataset: Dataset) -> None:
    """Write the first 16 digits of the SHA-256 of every training image into the run's folder, unless they are there."""
    if not (folder / _FILE).exists():
        rows = dataset.records.rows_of("train")
        write_text(folder / _FILE, "".join(f"{dataset.digests[row][:_DIGITS]}\n" for row in rows))


def count_train_images(run: RunPath, digests: Sequence[str]) -> int:
    """How many files with these hashes a run trained on; 0 for a model without its run, and for earlier versions."""
    path = Path(run) / _FILE
    if not path.is_file():
        return 0
    trained = path.read_text(encoding="utf-8").split()
    return int(np.isin([digest[:_DIGITS] for digest in digests], trained).sum())
