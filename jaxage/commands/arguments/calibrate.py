"""The arguments of `jaxage calibrate`."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxage.commands.arguments.shared import RunFolder
from jaxage.commands.calibrate import CalibrateOptions
from jaxage.commands.calibrate import calibrate as fit
from jaxage.utils.runtime import prepare_jax


def calibrate(
    run: RunFolder, options: Annotated[CalibrateOptions, tyro.conf.arg(name="")], out: Path | None = None
) -> None:
    """Fit a model's ages and intervals to a few faces of your own, without training.

    It says whether that helps. The calibrated model is a folder that other commands take in place of RUN.

    Args:
        run: The folder of a finished run.
        options: The faces.
        out: The folder to make; by default RUN/calibrated.
    """
    prepare_jax()
    fit(run, options, out)
