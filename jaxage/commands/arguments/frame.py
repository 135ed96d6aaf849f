"""The arguments of `jaxage frame`."""

from jaxage.commands.arguments.shared import RunFolder
from jaxage.commands.frame import frame as measure_frame
from jaxage.utils.runtime import prepare_jax


def frame(run: RunFolder) -> None:
    """Measure where faces sit in a model's training crops, so that photos are cropped to match.

    train does it too.

    Args:
        run: The folder of a finished run. A model of an earlier version also gets its intervals.
    """
    prepare_jax()
    measure_frame(run)
