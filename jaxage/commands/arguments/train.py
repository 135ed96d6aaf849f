"""The arguments of `jaxage train`."""

from typing import Annotated

import tyro

from jaxage.commands.arguments.fields import Asked
from jaxage.commands.plan import plan
from jaxage.commands.train import train as run_training
from jaxage.data.load import image_size
from jaxage.training.run_folder import find_run
from jaxage.utils import cluster
from jaxage.utils.runtime import prepare_jax


def train(asked: Annotated[Asked, tyro.conf.arg(name="")], dry_run: bool = False) -> None:
    """Fine-tune a network on faces, and test it.

    Args:
        dry_run: Only say what the run would need: devices, memory and disk. Nothing is trained or written.
    """
    settings, _ = find_run(*asked)  # a resumed run has the settings it was started with
    prepare_jax(image_size(settings), processes="joined")
    if dry_run:
        plan(settings, cluster.quiet(print))
    else:
        run_training(asked.config, given=asked.given)
