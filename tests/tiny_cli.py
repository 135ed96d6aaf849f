"""The command line with the network "tiny" among its networks, which does not look for faces in training crops and
saves a checkpoint after every epoch: for whole processes that compile little.
"""

from jaxage.cli import main, run
from jaxage.commands import train
from jaxage.models.registry import MODELS
from jaxage.training import loop
from tests.tiny import TINY

MODELS["tiny"] = TINY
loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
train.try_framing = lambda dataset, log: None
__all__ = ("main", "run")

if __name__ == "__main__":
    run()
