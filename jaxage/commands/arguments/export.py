"""The arguments of `jaxage export`."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxage.commands.arguments.shared import RunFolder
from jaxage.commands.export.run import ExportFormat
from jaxage.commands.export.run import export as export_for
from jaxage.utils.runtime import prepare_jax


def export(
    run: RunFolder, form: Annotated[ExportFormat, tyro.conf.arg(name="format")], out: Path | None = None
) -> None:
    """Write a model for another runtime, and compare its ages with JAX's.

    Args:
        run: The folder of a finished run, or its model folder.
        form: onnx (also in 8 bits) and stablehlo take uint8 images and give ages; torch is for timm and torchvision.
        out: The folder to make; without it, export-FORMAT in RUN.
    """
    prepare_jax()
    export_for(run, form, out)
