"""The arguments of `jaxage train`."""

from typing import Annotated

import tyro

from jaxage.commands.arguments.fields import Asked
from jaxage.commands.train import train as run_training
from jaxage.data.load import image_size
from jaxage.training.run_folder import find_run
from jaxage.utils.runtime import prepare_jax


def train(asked: Annotated[Asked, tyro.conf.arg(name="")]) -> None:
    """Fine-tune a network on faces, and test it."""
    settings, _ = find_run(*asked)  # a resumed run has the settings it was started with
    prepare_jax(image_size(settings))
    run_training(asked.config, given=asked.given)
