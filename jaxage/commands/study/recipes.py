"""The seven models of the report, and the two ways in which a study trains them."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxage.models.registry import MODELS
from jaxage.types import Arch, UserError

Protocol = Literal["report", "best"]


@dataclass(frozen=True)
class ModelSpec:
    """A network and what of it learns, as torchvision's module names; and the PLCC and SROCC of the 2024 report."""

    arch: Arch
    trainable: str
    published: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"{self.arch}:{self.trainable}"

    @property
    def slug(self) -> str:
        """As it names a folder."""
        return f"{self.arch}-{self.trainable.replace(',', '+')}"

    @property
    def head_only(self) -> bool:
        """Whether the new head alone learns."""
        return self.trainable.partition(":")[0] == HEADS[self.arch]


HEADS: dict[Arch, str] = {"mobilenet_v2": "classifier", "resnet18": "fc"}

REPORT_MODELS = (
    ModelSpec("mobilenet_v2", "classifier", (0.662, 0.598)),
    ModelSpec("mobilenet_v2", "all", (0.823, 0.787)),
    ModelSpec("resnet18", "fc", (0.656, 0.603)),
    ModelSpec("resnet18", "fc,layer4", (0.838, 0.813)),
    ModelSpec("resnet18", "fc,layer4,layer3", (0.865, 0.846)),
    ModelSpec("resnet18", "fc,layer4,layer3,layer2", (0.871, 0.855)),
    ModelSpec("resnet18", "fc,layer4,layer3,layer2,layer1", (0.872, 0.853)),
)
"""Table 1 of the report: IMDb-crop, 36,000 images, a random split 60/20/20, torchvision's ImageNet1k_v1 weights."""


def parse_model(text: str) -> ModelSpec:
    """A model from "resnet18:fc,layer4". Raises UserError if it is written otherwise."""
    arch, _, trainable = text.partition(":")
    if arch not in MODELS or not trainable:
        raise UserError(f"{text!r} is no model; write NETWORK:LAYERS, such as resnet18:fc,layer4")
    known = {spec.name: spec for spec in REPORT_MODELS}
    return known.get(text, ModelSpec(arch, trainable))


DESCRIPTIONS: dict[Protocol, str] = {
    "report": (
        "The 2024 report's: plain regression (mean squared error) without mirrors, averaging or decay, frozen "
        "BatchNorm as in plain PyTorch, one recipe for all models, a random split where the data do not give one."
    ),
    "best": (
        "The defaults of jaxage train: Huber's loss where stages of ResNet18 learn and label distributions "
        "elsewhere, mirrors to learn from and to predict by, averaged weights, frozen BatchNorm kept as it was. "
        "Besides, heads learn from kept features for ten times as long, and no person is on two sides where people are "
        "known."
    ),
}


_HEAD_EPOCHS = 10


def recipe(protocol: Protocol, model: ModelSpec, epochs: int) -> dict[str, Any]:
    """The fields of a `TrainConfig` in which this protocol differs from the defaults of `jaxage train`.

    `epochs` is how often images are looked at; a head that learns from kept features alone goes over those ten times
    as often, for that costs next to nothing.
    """
    if protocol == "report":
        return {
            "epochs": epochs,
            "loss": "mse",
            "views": 1,
            "cache_features": "off",
            "ema": 0.0,
            "weight_decay": 0.0,
            "flip": False,
            "frozen_bn": "train",
        }
    if model.head_only:
        return {"epochs": _HEAD_EPOCHS * epochs, "learning_rate": 2e-3, "cache_features": "disk"}
    return {"epochs": epochs}
