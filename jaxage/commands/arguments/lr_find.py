"""The arguments of `jaxage lr-find`."""

from typing import Annotated

import tyro

from jaxage.commands.arguments.fields import Asked
from jaxage.commands.lr_find import RANGE_TESTS
from jaxage.commands.lr_find import lr_find as find_learning_rate
from jaxage.data.load import image_size
from jaxage.training.run_folder import find_run
from jaxage.utils.runtime import prepare_jax


def lr_find(asked: Annotated[Asked, tyro.conf.arg(name="")], steps: int = 300) -> None:
    """Raise the learning rate step by step, and draw how the loss goes: where to set it.

    Args:
        asked: As for train; the folder is runs/lr-find-ARCH-TRAINABLE-TIME without --out.
        steps: How many steps the rate takes from 1e-6 to 1.
    """
    settings, _ = find_run(*asked, RANGE_TESTS)
    prepare_jax(image_size(settings), processes="joined")
    find_learning_rate(asked.config, steps, given=asked.given)
