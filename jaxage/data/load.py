"""The set that a run asks for: its own, or the embedded one."""

import hashlib
from pathlib import Path

from jaxage.config import TrainConfig
from jaxage.data.splits import assign_splits
from jaxage.data.store import Dataset, load_dataset
from jaxage.data.synthetic import synthetic_faces

DEMO_FACES, DEMO_SIZE, REAL_SIZE = 2400, 64, 224


def load_data(config: TrainConfig, cache: Path) -> Dataset:
    """The faces of `config.data`, or drawn ones if it is None; decoded images are kept in `cache`.

    Raises DataError as `load_dataset` does.
    """
    if config.data is None:
        images, records = synthetic_faces(DEMO_FACES, config.image_size or DEMO_SIZE, config.seed)
        records = assign_splits(records, config.split, config.seed)
        digest = hashlib.sha256(images.tobytes() + records.age.tobytes()).hexdigest()
        return Dataset("synthetic", records, images, (), digest, config.split)
    size = config.image_size or REAL_SIZE
    return load_dataset(config.data, size, split=config.split, seed=config.seed, cache=cache, max_bad=config.max_bad)
