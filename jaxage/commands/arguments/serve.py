"""The arguments of `jaxage serve`."""

from jaxage.commands.arguments.shared import RunFolder
from jaxage.commands.serve.run import serve as serve_page
from jaxage.utils.runtime import prepare_jax


def serve(run: RunFolder, port: int = 8000, host: str = "127.0.0.1", coverage: float = 0.9) -> None:
    """Open a page that takes photos and shows ages, intervals, and where the network looks.

    Args:
        run: The folder of a finished run, or its model folder.
        port: The port to listen on.
        host: The address to listen on; other machines reach 0.0.0.0, without a password.
        coverage: The probability with which intervals are to hold the true age, 0.5 to 0.99.
    """
    prepare_jax()
    serve_page(run, host, port, coverage)
