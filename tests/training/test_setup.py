import sys

import pytest

from jaxage.config import TrainConfig
from jaxage.training.setup import check_settings
from jaxage.types import UserError


def test_images_drawn_anew_cannot_be_kept() -> None:
    check_settings(TrainConfig(trainable="fc", augment=True))
    with pytest.raises(UserError, match=r"--augment draws images anew .* --cache-features disk keeps"):
        check_settings(TrainConfig(trainable="fc", augment=True, cache_features="disk"))


def test_events_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"--tensorboard needs tensorboardX: pip install 'jaxage\[tensorboard\]'"):
        check_settings(TrainConfig(trainable="fc", tensorboard=True))
