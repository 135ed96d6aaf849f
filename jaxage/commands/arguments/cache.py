"""The arguments of `jaxage cache`."""

from jaxage.commands.cache import cache as show_cache
from jaxage.config import cache_folder


def cache(unused_days: float | None = None) -> None:
    """Show what is kept on disk between runs, and make room.

    Args:
        unused_days: Remove what was not used for so many days. It is made again when it is needed.
    """
    show_cache(cache_folder(), unused_days)
