"""The arguments of `jaxage launch`."""

import sys
from typing import Annotated

import tyro

from jaxage.commands.launch import launch as start

Command = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="-- COMMAND...")]]


def launch(command: Command, processes: int = 2) -> None:
    """Start a command in several processes on this machine, which train one model.

    Args:
        command: The command and its arguments, after --.
        processes: How many processes; GPUs and cores are divided equally.
    """
    if status := start(command, processes):
        sys.exit(status)
