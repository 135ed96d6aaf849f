"""The arguments of `jaxage push`."""

from typing import Annotated

import tyro

from jaxage.commands.arguments.shared import RunFolder
from jaxage.commands.push import PushOptions
from jaxage.commands.push import push as push_model

_Repo = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OWNER/NAME")]]


def push(run: RunFolder, repo: _Repo, options: Annotated[PushOptions, tyro.conf.arg(name="")]) -> None:
    """Upload the model of a run to the Hugging Face Hub, with a card; other commands take it as hf://OWNER/NAME.

    Args:
        run: The folder of a finished run.
        repo: Where to; it is made if need be.
        options: Its license, and who sees it.
    """
    push_model(run, repo, options)
