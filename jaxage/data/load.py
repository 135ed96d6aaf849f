"""The set that a run asks for: its own, or drawn faces, which go the way of real ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset, load_dataset
from jaxage.data.importers.filters import Criteria
from jaxage.data.prepare.options import Options
from jaxage.data.prepare.pipeline import prepare_crops
from jaxage.data.synthetic.faces import write_synthetic
from jaxage.types import Log, SplitRule

DEMO_FACES, DEMO_SIZE, REAL_SIZE = 2400, 64, 224
_VERSION = 1


def image_size(config: TrainConfig) -> int:
    """Height and width in pixels that `config` asks for."""
    return config.image_size or (DEMO_SIZE if config.data is None else REAL_SIZE)


def load_data(config: TrainConfig, cache: Path, log: Log = print) -> Dataset:
    """The faces of `config.data`, or drawn ones if it is None; decoded images, and the drawn ones, are kept in `cache`.

    Raises DataError as `load_dataset` does.
    """
    options: dict[str, Any] = {"split": config.split, "seed": _seed(config), "cache": cache, "max_bad": config.max_bad}
    size = image_size(config)
    if config.data is not None:
        return load_dataset(config.data, size, **options)
    return replace(load_dataset(_drawn(config, size, cache / "drawn", log), size, **options), name="synthetic")


def _drawn(config: TrainConfig, size: int, folder: Path, log: Log) -> Path:
    """Faces of this size and seed, drawn as a tree of IMDb-crop and prepared like one, unless that was done before."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / f"{_VERSION}-{DEMO_FACES}-{size}-{_seed(config)}"
    rule: SplitRule = "random" if config.split == "given" else config.split
    options = Options(tree / rule, rule, seed=_seed(config))
    with FileLock(folder / f".{tree.name}.lock"):
        if not (tree / "imdb.mat").exists():
            log(f"drawing {DEMO_FACES:,} faces of {size} px")
            write_synthetic(tree, DEMO_FACES, size, _seed(config))
        return prepare_crops("imdb", tree, Criteria(fraction=1.0), options, log=log)


def _seed(config: TrainConfig) -> int:
    return config.seed if config.split_seed is None else config.split_seed
