"""A head of one output in closed form: ridge regression on the features before it."""

import json
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from jaxage.training.export import ModelConfig
from jaxage.training.loop import Job, Progress
from jaxage.training.predictor import scores
from jaxage.training.run_folder import HISTORY
from jaxage.types import Variables
from jaxage.utils.files import write_text
from jaxage.utils.sharding import replicate
from jaxage.utils.trees import is_within, map_named

STRENGTHS = tuple(float(strength) for strength in np.logspace(-6, 1, 29))


class Linear(NamedTuple):
    """`features @ kernel + bias`, for each of several strengths: (strengths, inputs), (strengths,), float64."""

    kernel: Float[np.ndarray, "strengths inputs"]
    bias: Float[np.ndarray, " strengths"]


def ridge(
    features: Float[np.ndarray, "n inputs"], target: Float[np.ndarray, " n"], strengths: tuple[float, ...]
) -> Linear:
    """The least mean square error plus `strength` times the squared weights of the standardized features.

    The bias is free; features that do not vary get no weight (Hoerl and Kennard 1970). In float64, by one
    eigendecomposition for all strengths.
    """
    x, y = features.astype(np.float64), target.astype(np.float64)
    mean, std = x.mean(0), x.std(0)
    scale = np.where(std > 0, 1 / np.where(std > 0, std, 1), 0)
    x = (x - mean) * scale
    values, vectors = scipy.linalg.eigh(x.T @ x / len(x))
    moment = vectors.T @ (x.T @ (y - y.mean())) / len(x)
    shrunk = moment / (np.maximum(values, 0) + np.asarray(strengths)[:, None])
    kernel = shrunk @ vectors.T * scale
    return Linear(kernel, y.mean() - kernel @ mean)


def solve(job: Job, variables: Variables, contract: ModelConfig, head: str) -> tuple[Variables, Progress]:
    """`variables` with the `head` that ridge regression gives, of the strength with the best validation MAE.

    Every kept view of every training image counts. The history has a line for each strength, `best_epoch` its number.
    """
    started = time.perf_counter()
    items, ages = np.asarray(job.inputs.loader.items), np.asarray(job.inputs.loader.ages)
    view_rows, rows = job.inputs.view_rows.ravel(), job.records.rows_of("validation")
    kernels, biases = ridge(items[view_rows], (ages[view_rows] - contract.age_mean) / contract.age_std, STRENGTHS)
    objective, seen = contract.objective(), items[job.inputs.eval_rows[rows]].mean(1)
    history: list[dict[str, Any]] = []
    for number, (strength, kernel, bias) in enumerate(zip(STRENGTHS, kernels, biases, strict=True), 1):
        logits = (seen @ kernel + bias).astype(np.float32)
        found = scores(np.asarray(objective.predict(jnp.asarray(logits)[:, None])), job.records.age[rows])
        history.append({"epoch": number, "strength": strength, "validation": found})
    best = min(history, key=lambda line: line["validation"]["mae"])
    chosen = best["epoch"] - 1
    job.log(
        f"ridge regression: of {len(STRENGTHS)} strengths {best['strength']:.1e} has the best validation MAE, "
        f"{best['validation']['mae']:.3f}"
    )
    write_text(job.folder / HISTORY, "".join(json.dumps(line) + "\n" for line in history))
    solution = {"kernel": kernels[chosen][:, None], "bias": biases[chosen][None]}

    def solved(leaf: str, value: jax.Array) -> jax.Array:
        return (
            replicate(solution[leaf.rsplit(".", 1)[1]].astype(np.float32), job.mesh) if is_within(leaf, head) else value
        )

    params = map_named(solved, variables["params"])
    now = time.perf_counter()
    done = Progress(history, best["epoch"], train_s=now - started, run_s=now - job.started, images=len(view_rows))
    return variables | {"params": params}, done
