"""Libraries that only some commands need."""

from importlib import import_module
from typing import Any

from jaxage.types import UserError


def require(module: str, extra: str, what: str) -> Any:
    """Import a library of an extra.

    Args:
        module: Its name.
        extra: The extra of jaxage that installs it.
        what: What needs it, for the message.

    Raises:
        UserError: if it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{what} needs {error.name}: pip install 'jaxage[{extra}]'") from error
