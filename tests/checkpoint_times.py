"""How long a checkpoint takes, for some configurations: `python -m tests.checkpoint_times FOLDER`."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxage.config import TrainConfig
from jaxage.models.registry import create_model
from jaxage.training.checkpoint import Checkpoint, make_layout, open_checkpoints, save
from jaxage.training.freeze import ema_mask, make_freeze_plan, parse_trainable
from jaxage.training.optimizer import make_optimizer
from jaxage.training.state import init_state
from jaxage.types import Arch

CASES: list[tuple[Arch, str]] = [
    ("resnet18", "fc"),
    ("resnet18", "fc,layer4"),
    ("resnet18", "all"),
    ("mobilenet_v2", "all"),
]


def median_seconds(arch: Arch, trainable: str, folder: Path) -> float:
    """Of seven checkpoints, after one that is not counted."""
    model = create_model(arch)
    variables = model.init(jax.random.key(0))
    plan = make_freeze_plan(model, variables, parse_trainable(trainable, variables["params"]), "eval")
    state = init_state(variables, make_optimizer(TrainConfig(arch=arch, trainable=trainable), plan, 10))
    state, times = jax.tree.map(jnp.asarray, state), []
    layout = make_layout(state, ema_mask(variables, plan))
    with tempfile.TemporaryDirectory(dir=folder) as place, open_checkpoints(Path(place)) as manager:
        for step in range(8):
            started = time.perf_counter()
            save(manager, Checkpoint(state._replace(step=jnp.int32(step)), state.average, {}), layout)
            times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    for arch, trainable in CASES:
        print(f"{arch} {trainable}: {median_seconds(arch, trainable, Path(sys.argv[1])):.2f} s")
