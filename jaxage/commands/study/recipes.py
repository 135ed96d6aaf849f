"""The models that a study trains, and the two protocols for training them."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jax

from jaxage.models.registry import MODELS, create_model
from jaxage.training.freeze import parse_trainable
from jaxage.types import Arch, UserError
from jaxage.utils.trees import is_within

Protocol = Literal["report", "best"]


@dataclass(frozen=True)
class ModelSpec:
    """A network and its trainable layers.

    arch: A key of `jaxage.models.registry.MODELS`.
    trainable: The trainable layers, as for `jaxage train --trainable`.
    published: PLCC and SROCC of the 2024 report, if it has this model.
    """

    arch: Arch
    trainable: str
    published: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """As on the command line: "resnet18:fc,layer4"."""
        return f"{self.arch}:{self.trainable}"

    @property
    def slug(self) -> str:
        """As a folder name: "resnet18-fc+layer4"."""
        return f"{self.arch}-{self.trainable.replace(',', '+')}"

    @property
    def head_only(self) -> bool:
        """Whether only the head is trained."""
        return head_only(self.arch, self.trainable)


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
    """Read a model such as "resnet18:fc,layer4". Spaces are ignored.

    Raises:
        UserError: If the text has another form or names an unknown network. The layers are not checked.
    """
    arch, _, trainable = "".join(text.split()).partition(":")
    if arch not in MODELS or not trainable:
        raise UserError(
            f"{text!r} is not a model: write NETWORK:LAYERS, such as resnet18:fc,layer4. "
            f"Networks are {', '.join(MODELS)}"
        )
    spec = ModelSpec(arch, trainable)
    return next((known for known in REPORT_MODELS if known.name == spec.name), spec)


@cache
def head_only(arch: Arch, trainable: str) -> bool:
    """Whether only the head of the network is trained.

    Args:
        arch: A key of `jaxage.models.registry.MODELS`.
        trainable: The trainable layers, as for `jaxage train --trainable`.

    Raises:
        UserError: If `trainable` names no layers of this network.
    """
    model = create_model(arch)
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    return all(is_within(group.name, model.spec.head) for group in parse_trainable(trainable, params))


DESCRIPTIONS: dict[Protocol, str] = {
    "report": (
        "the recipe of the 2024 report. It is the same for all models: mean squared error, no mirrored images, no "
        "averaging of weights, no weight decay, and frozen BatchNorm as in plain PyTorch. The split is random unless "
        "the data have their own."
    ),
    "best": (
        "the defaults of jaxage train. The loss is that of label distributions. Mirrored images are used for training "
        "and for prediction, weights are averaged, and frozen BatchNorm does not change. Heads are trained on cached "
        "features for ten times as many epochs. Where identities are known, no person is in two splits."
    ),
}
"""What the page says about each protocol."""

_HEAD_EPOCHS = 10


def recipe(protocol: Protocol, model: ModelSpec, epochs: int) -> dict[str, Any]:
    """The fields of a `TrainConfig` in which a protocol differs from the defaults of `jaxage train`.

    Args:
        protocol: "report" or "best".
        model: The model to train.
        epochs: How often each training image is seen. In "best", a head alone sees the cached features ten times as
            often, because that takes little time.
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
