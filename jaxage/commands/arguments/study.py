"""The arguments of `jaxage study`."""

from typing import Annotated

import tyro

from jaxage.commands.study.run import StudyConfig
from jaxage.commands.study.run import study as run_study
from jaxage.config import TrainConfig
from jaxage.data.load import image_size
from jaxage.utils.runtime import prepare_jax


def study(config: Annotated[StudyConfig, tyro.conf.arg(name="")]) -> None:
    """Train the seven models of the report, and write a page that compares them."""
    prepare_jax(image_size(TrainConfig(data=config.data, image_size=config.image_size)), processes="independent")
    run_study(config)
