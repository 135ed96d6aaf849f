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

    arch: Arch = "resnet18"
    """The network."""

    trainable: str = "all"
    """What learns: a comma list of module names, each with an optional learning-rate multiplier, such as
    fc,layer4,layer3:0.1 or classifier,features.18; or "all". The rest is frozen."""

    weights: str = "imagenet1k_v1"
    """Where the network starts: a tag of weights/manifest.json, a .pth or .safetensors file, or "random"."""

    data: Path | None = None
    """A folder that jaxage prepare has made, or a CSV with the columns path, age and, if you have them, identity and
    split; paths are relative to it, in its folder or in a .tar of the same name beside it. Without it, jaxage draws its
    own faces."""

    split: SplitChoice = "given"
    """How to divide the data: as its split column or its prepared folder says, at random where they do not ("given"),
    or 60/20/20 anew, "random" or with no person on two sides ("identity")."""

    image_size: int | None = None
    """Height and width in pixels; without it, 224 for your data and 64 for the drawn faces."""

    loss: LossName = "auto"
    """dldl learns a distribution over ages 0-100; l1, mse and huber regress the standardized age. "auto" is what
    validated best: huber where more of ResNet18 learns than its head, dldl elsewhere."""

    epochs: int = 10
    """How often each training image is seen."""

    batch_size: int = 32
    """Images per step, over all devices."""

    learning_rate: float = 5e-4
    """AdamW's peak, after warm-up and before cosine decay."""

    weight_decay: float = 0.05
    """AdamW's decay of kernels; BatchNorm and biases have none."""

    warmup: float = 0.05
    """The share of all steps over which the learning rate rises."""

    clip: float = 1.0
    """The largest global norm of the gradient of what learns."""

    ema: float = 0.999
    """Decay of the averaged parameters that are validated and exported; 0 turns averaging off."""

    views: int = 2
    """How many fixed views of a training image are learned from: itself, its mirror, and random crops."""

    augment: bool = False
    """Learn from crops (80-100 % of the area), flips and light color changes drawn anew at every step instead."""

    cache_features: CacheFeatures = "auto"
    """Run the frozen layers once and keep what they give: on the device, in host memory, or on disk, in a file that
    later runs find again. "auto" does so if it saves time."""

    solver: Solver = "adamw"
    """"ridge" finds a head of one output in closed form, with the strength that is best on the validation split."""

    unfreeze: str = ""
    """When groups of --trainable begin to learn, as shares of all steps, such as layer4@0.1,layer3@0.3; until then they
    are frozen. The others learn from the first step."""

    balance: float = 0.0
    """Count rare ages more: an image's loss is weighted by the smoothed number of training images of its age to the
    power of minus this; 1 makes all ages count alike."""

    flip: bool = True
    """Predict the mean of an image's age and its mirror's."""

    frozen_bn: FrozenBatchNorm = "eval"
    """Frozen BatchNorm: "eval" keeps its running statistics; "train" does as plain PyTorch does, which normalizes by
    the batch and lets them drift."""

    dtype: Precision = "auto"
    """What the trunk computes in, bfloat16 on a GPU and float32 elsewhere unless you say; parameters and statistics
    stay float32."""

    seed: int = 0
    """Of the split, the new head, the order of images, the augmentation, and the drawn faces."""

    split_seed: int | None = None
    """Of the split and the drawn faces alone, where it is not --seed: runs that differ by --seed then share a test."""

    max_bad: float = 0.01
    """The largest share of images that may be missing or broken before the run stops."""

    memory_budget: float | None = None
    """GiB of each device that the images may take; more are streamed from the disk. Without it, half of the device."""

    out: Path | None = None
    """The run's folder; without it, runs/ARCH-TRAINABLE-TIME."""

    resume: bool = False
    """Go on where the run in --out, or the newest of this arch and trainable, stopped."""

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
    """Where downloads and decoded images are kept: the environment's JAXAGE_CACHE, else the user's cache folder."""
    named = os.environ.get("JAXAGE_CACHE")
    return Path(named) if named else user_cache_path("jaxage")


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The fields as JSON values."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}


def from_json(fields: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_json`. Raises TypeError for an unknown field."""
    paths = {name: Path(fields[name]) for name in ("data", "out") if fields.get(name) is not None}
    return TrainConfig(**(fields | paths))
