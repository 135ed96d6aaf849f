"""Is training on this GPU right? One step and one prediction of every configuration, beside the same on the CPU.

    python scripts/gpu_check.py --out gpu_check.json

needs a GPU and no data; `jaxage benchmark` then says how fast it is. Weights and images are random. A row has the
relative differences (of norms) of predictions, of the step's gradient (read from AdamW's first moments), and of
BatchNorm's statistics afterwards; and whether frozen parameters stayed as they were. Gradients of random networks are
sensitive: rounding alone moves them by tenths in bfloat16, so they do not decide whether a row is right. In float32
the GPU computes with TF32 unless `JAX_DEFAULT_MATMUL_PRECISION=highest` is set. Without a GPU it compares the two
forms of the layers that a CPU can run, which tries the script itself.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from jaxage.commands.benchmark.abstract import Case, abstract_programs
from jaxage.commands.benchmark.run import CONFIGURATIONS
from jaxage.commands.study.recipes import parse_model
from jaxage.config import TrainConfig
from jaxage.data.sampler import EpochBatches
from jaxage.models.ops.conv import ConvForm
from jaxage.models.registry import create_model
from jaxage.training.freeze import FROZEN, make_freeze_plan, parse_trainable
from jaxage.training.optimizer import make_optimizer
from jaxage.training.run_folder import environment
from jaxage.training.state import init_state
from jaxage.types import Dtype
from jaxage.utils.files import write_json
from jaxage.utils.sharding import make_mesh, replicate
from jaxage.utils.trees import flatten

_LIMITS = {"float32": 2e-3, "bfloat16": 5e-2}


def run(case: Case, size: int, mesh: Mesh, form: ConvForm) -> dict[str, Any]:
    """Predictions, gradient, statistics and frozen parameters after one step, as NumPy arrays by name."""
    model = create_model(case.arch)
    variables = jax.device_get(model.init(jax.random.key(0)))
    plan = make_freeze_plan(model, variables, parse_trainable(case.trainable, variables["params"]), "eval")
    config = TrainConfig(arch=case.arch, trainable=case.trainable, warmup=0.0, clip=1e9)
    state = replicate(init_state(variables, make_optimizer(config, plan, 6)), mesh)
    draw = np.random.default_rng(0)
    programs = abstract_programs(case, size, mesh, form)
    _, images, ages, epoch = programs["step"].arguments
    faces = replicate(draw.integers(0, 256, images.shape, np.uint8), mesh)
    years = replicate(draw.uniform(0, 100, ages.shape).astype(np.float32), mesh)
    rows = np.arange(epoch.rows.size, dtype=np.int32).reshape(epoch.rows.shape)
    batches = replicate(EpochBatches(rows, rows, np.ones(rows.shape, np.float32)), mesh)
    predicted = programs["predict"].function(state.average, faces, rows[0][:, None]).age
    state, _ = programs["step"].function(state, faces, years, batches)
    after = jax.device_get(state)
    frozen = {name for name, label in flatten(plan.labels).items() if label == FROZEN}
    moments = [leaf for path, leaf in jax.tree.leaves_with_path(after.opt_state) if ".mu" in jax.tree_util.keystr(path)]
    before = flatten(variables["params"])
    return {
        "predictions": [np.asarray(predicted)],
        "gradient": moments,
        "statistics": jax.tree.leaves(after.batch_stats),
        "frozen": all(np.array_equal(flatten(after.params)[name], before[name]) for name in frozen),
    }


def compare(here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """The norm of the difference of each part, as a share of the norm of the part."""

    def apart(name: str) -> float:
        a, b = (np.concatenate([leaf.ravel() for leaf in side[name]]) for side in (here, there))
        return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if np.isfinite(a).all() else float("inf")

    found = {name: apart(name) for name in ("predictions", "gradient", "statistics")}
    return found | {"frozen_as_before": here["frozen"] and there["frozen"]}


def main(
    configurations: tuple[str, ...] = CONFIGURATIONS,
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16"),
    batch_size: int = 16,
    image_size: int = 128,
    out: Path = Path("gpu_check.json"),
) -> None:
    """Compare this device with the CPU, in float32 and bfloat16.

    Args:
        configurations: Networks and their trainable layers, such as "resnet18:fc,layer4".
        dtypes: Of the trunk on this device; the CPU computes in float32.
        batch_size: Images of the step.
        image_size: Height and width in pixels.
        out: The JSON file for the results, with card and versions.
    """
    device, cpu = (make_mesh(jax.local_devices(backend=name)[:1]) for name in (None, "cpu"))
    form: ConvForm = "gpu" if jax.default_backend() == "gpu" else "xla"
    rows = []
    for text in configurations:
        model = parse_model(text)
        with jax.default_device(cpu.devices.flat[0]):
            exact = run(Case(model.arch, model.trainable, batch_size, "float32"), image_size, cpu, "cpu")
        for dtype in dtypes:
            case = Case(model.arch, model.trainable, batch_size, dtype)
            row = {"arch": case.arch, "trainable": case.trainable, "dtype": dtype}
            row |= compare(run(case, image_size, device, form), exact)
            row["right"] = row["frozen_as_before"] and max(row["predictions"], row["statistics"]) < _LIMITS[dtype]
            rows.append(row)
            print(json.dumps(row), flush=True)
    write_json(out, {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    jnp.zeros(1).block_until_ready()  # a missing driver is found at once
    tyro.cli(main)
