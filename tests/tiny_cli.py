"""The command line with the network "tiny" among its networks, which does not look for faces in training crops: for
whole processes that compile little.
"""

from jaxage.cli import main, run
from jaxage.commands import train
from jaxage.models.registry import MODELS
from tests.tiny import TINY

MODELS["tiny"] = TINY
train.try_framing = lambda dataset, log: None
__all__ = ("main", "run")

if __name__ == "__main__":
    run()
