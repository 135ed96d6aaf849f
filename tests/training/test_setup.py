import sys

import pytest

from jaxage.config import TrainConfig
from jaxage.training.setup import check_settings
from jaxage.types import Arch, UserError


@pytest.mark.parametrize(
    ("arch", "trainable", "loss"),
    [
        ("resnet18", "fc", "dldl"),
        ("resnet18", "fc:0.5", "dldl"),
        ("resnet18", "fc:0.5,layer4", "huber"),
        ("resnet18", "fc,layer4", "huber"),
        ("resnet18", "all", "huber"),
        ("mobilenet_v2", "classifier", "dldl"),
        ("mobilenet_v2", "classifier.1", "dldl"),
        ("mobilenet_v2", "all", "dldl"),
    ],
)
def test_the_default_loss_is_the_one_that_validated_best(arch: Arch, trainable: str, loss: str) -> None:
    assert check_settings(TrainConfig(arch=arch, trainable=trainable)).loss == loss
    assert check_settings(TrainConfig(arch=arch, trainable=trainable, loss="l1")).loss == "l1"


def test_images_drawn_anew_cannot_be_kept() -> None:
    check_settings(TrainConfig(trainable="fc", augment=True))
    with pytest.raises(UserError, match=r"--augment draws images anew .* --cache-features disk keeps"):
        check_settings(TrainConfig(trainable="fc", augment=True, cache_features="disk"))


def test_events_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"--tensorboard needs tensorboardX: pip install 'jaxage\[tensorboard\]'"):
        check_settings(TrainConfig(trainable="fc", tensorboard=True))
