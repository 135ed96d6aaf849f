"""The command line with the network "tiny" among its networks: for whole processes that compile little."""

from jaxage.cli import run
from jaxage.models.registry import MODELS
from tests.tiny import TINY

MODELS["tiny"] = TINY

if __name__ == "__main__":
    run()
