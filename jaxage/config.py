"""A whole run as data. The docstrings of the fields are the help of the command line."""

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from jaxage.types import Arch, CacheFeatures, FrozenBatchNorm, LossName, Precision, Solver, SplitChoice, UserError


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a network on faces and test it."""

    # Model
    arch: Arch = "resnet18"
    """The network."""

    trainable: str = "all"
    """What learns: a comma list of module names, each with an optional learning-rate multiplier, such as
    fc,layer4,layer3:0.1 or classifier,features.18; or "all". The rest is frozen."""

    weights: str = "imagenet1k_v1"
    """Initial weights: a tag of weights/manifest.json, a file of torch, safetensors or Flax, an Orbax folder,
    timm:NAME for a checkpoint of timm on the Hugging Face Hub, or "random"."""

    frozen_bn: FrozenBatchNorm = "eval"
    """Frozen BatchNorm: "eval" normalizes by its running statistics, which stay as they are; "train" does as plain
    PyTorch does: it normalizes by the batch, and the statistics drift."""

    dtype: Precision = "auto"
    """The dtype of the trunk's computation; "auto" is bfloat16 on a GPU and float32 elsewhere. Parameters and
    statistics stay float32."""

    # Data
    data: Path | None = None
    """A folder made by jaxage prepare, or a CSV with the columns path, age and, if known, identity and split. Paths are
    relative to the CSV's folder, or to a .tar, .tar.gz or .zip of the same name beside it. Without it, jaxage draws its
    own faces."""

    split: SplitChoice = "given"
    """How to divide the data: "given" uses the split column or the prepared folder's splits, and divides at random
    where there are none; "random" and "identity" (no person on two sides) divide 60/20/20 anew."""

    split_seed: int | None = None
    """Seed of the split and of the drawn faces, if it is not --seed: runs that differ by --seed then share a test
    set."""

    image_size: int | None = None
    """Height and width in pixels; by default 224 for your data and 64 for the drawn faces."""

    max_bad: float = 0.01
    """The largest share of images that may be missing or broken before the run stops."""

    # Optimization
    loss: LossName = "dldl"
    """dldl learns a distribution over ages 0-100; l1, mse and huber regress the standardized age."""

    solver: Solver = "adamw"
    """"ridge" finds a head of one output in closed form, with the strength that is best on the validation split; it
    does not use the epochs, the learning rate and the other settings of AdamW."""

    epochs: int = 10
    """How often each training image is seen."""

    batch_size: int = 32
    """Images per step, over all devices."""

    learning_rate: float = 5e-4
    """AdamW's peak learning rate, after warm-up and before cosine decay."""

    weight_decay: float = 0.05
    """AdamW's weight decay of kernels; BatchNorm and biases have none."""

    warmup: float = 0.05
    """The share of all steps over which the learning rate rises."""

    clip: float = 1.0
    """The largest global norm of the gradient of what learns."""

    ema: float = 0.999
    """Decay of the averaged parameters, which are validated and exported; 0 turns averaging off."""

    views: int = 2
    """How many fixed views of each training image there are: itself, its mirror, and random crops."""

    augment: bool = False
    """Draw crops (80-100 % of the area), flips and light color changes anew at every step instead of fixed views."""

    unfreeze: str = ""
    """When groups of --trainable begin to learn, as shares of all steps, such as layer4@0.1,layer3@0.3; until then
    they are frozen. The other groups learn from the first step."""

    balance: float = 0.0
    """Let rare ages count more: predict as if training ages had the density ** (1 - balance) of their smoothed
    histogram. 0 changes nothing; 1 lets all ages count alike. The run's balance.png shows what each value costs."""

    flip: bool = True
    """Predict the mean of an image's age and its mirror's."""

    # Speed
    cache_features: CacheFeatures = "auto"
    """Run the frozen layers once and cache their output: on the device, in host memory, or on disk, in a file
    that later runs find. "auto" does so if it saves time."""

    memory_budget: float | None = None
    """GiB of each device for images and cached features together; what does not fit is streamed. By default half
    of the device."""

    # Run
    seed: int = 0
    """Seed of the split, the new head, the order of images, the augmentation, and the drawn faces."""

    out: Path | None = None
    """The run's folder; by default runs/ARCH-TRAINABLE-TIME."""

    resume: bool = False
    """Continue the run in --out, or the newest run of this network and these layers."""

    tensorboard: bool = False
    """Write the lines of metrics.jsonl as events into the run's folder too, for tensorboard --logdir runs."""

    def __post_init__(self) -> None:
        """Raise UserError naming the first field that cannot be used."""
        positive = ("epochs", "batch_size", "learning_rate", "clip", "views")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(f"--{name.replace('_', '-')} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "ema", "max_bad"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.balance <= 1:
            raise UserError(f"--balance must lie in [0, 1], got {self.balance}")
        for name in ("seed", "split_seed"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"--{name.replace('_', '-')} must not be negative, got {getattr(self, name)}")
        if self.memory_budget is not None and not 0 <= self.memory_budget < math.inf:
            raise UserError(f"--memory-budget must be a finite number from 0, got {self.memory_budget}")
        if not self.weight_decay >= 0:
            raise UserError(f"--weight-decay must not be negative, got {self.weight_decay}")
        if self.image_size is not None and self.image_size < 32:
            raise UserError(f"--image-size must be at least 32, got {self.image_size}")


def cache_folder() -> Path:
    """Where downloads and decoded images are kept: the environment's JAXAGE_CACHE, else the user's cache folder.

    Raises:
        UserError: for a user without a home folder.
    """
    if named := os.environ.get("JAXAGE_CACHE"):
        return Path(named)
    try:
        return user_cache_path("jaxage")
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder to keep decoded images and downloads in: set JAXAGE_CACHE to a folder"
        ) from error


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The fields as JSON values."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}


def from_json(fields: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_json`. Raises TypeError for an unknown field."""
    paths = {name: Path(fields[name]) for name in ("data", "out") if fields.get(name) is not None}
    if fields.get("loss") == "auto":  # of earlier versions, which keep their choice in resolved.json
        fields = fields | {"loss": TrainConfig.loss}
    return TrainConfig(**(fields | paths))
