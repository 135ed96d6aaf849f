"""The data of a run: its own, or drawn faces, which are prepared like real ones."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset, LoadOptions, load_dataset
from jaxage.data.image_cache import FaceCropper
from jaxage.data.importers.filters import Criteria
from jaxage.data.importers.imdb_crops import IMDB_CROP, CropsOptions
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepare.pipeline import prepare_dataset
from jaxage.data.synthetic.faces import write_synthetic
from jaxage.types import InputContract, Log, SplitRule
from jaxage.utils.files import lock_file

DEMO_FACES, DEMO_SIZE, REAL_SIZE = 2400, 64, 224
_VERSION = 1
_IMAGENET = InputContract()


def image_size(config: TrainConfig) -> int:
    """Height and width in pixels that `config` asks for."""
    return config.image_size or (DEMO_SIZE if config.data is None else REAL_SIZE)


def load_options(config: TrainConfig) -> LoadOptions:
    """How `config` divides the images, and how many may be bad."""
    return LoadOptions(config.split, _seed(config), config.max_bad)


def load_data(
    config: TrainConfig,
    cache: Path,
    log: Log = print,
    contract: InputContract = _IMAGENET,
    cropper: FaceCropper | None = None,
) -> Dataset:
    """The faces of `config.data`, or drawn faces if it is None.

    Args:
        config: The run's settings.
        cache: Decoded images and drawn faces are kept here.
        log: Takes the counts of drawn faces.
        contract: How images are resized and cropped.
        cropper: Cuts faces out of photos; without it, images are taken whole.

    Raises:
        DataError: as `load_dataset` does.
    """
    size, options = image_size(config), load_options(config)
    load = partial(load_dataset, size=size, cache=cache, contract=contract, options=options, cropper=cropper)
    if config.data is not None:
        return load(config.data)
    return replace(load(_draw(config, size, cache / "drawn", log)), name="synthetic")


def _draw(config: TrainConfig, size: int, folder: Path, log: Log) -> Path:
    """Draw faces of this size and seed like IMDb-crop and prepare them, unless that was done before."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / f"{_VERSION}-{DEMO_FACES}-{size}-{_seed(config)}"
    rule: SplitRule = "random" if config.split == "given" else config.split
    options = PrepareOptions(tree / rule, rule, seed=_seed(config))
    with lock_file(folder / f".{tree.name}.lock"):
        if not (tree / "imdb.mat").exists():
            log(f"drawing {DEMO_FACES:,} faces of {size} px")
            write_synthetic(tree, DEMO_FACES, size, _seed(config))
        return prepare_dataset(IMDB_CROP, CropsOptions(tree, Criteria(fraction=1.0)), options, log=log)


def _seed(config: TrainConfig) -> int:
    return config.seed if config.split_seed is None else config.split_seed
