"""A head of one output in closed form: ridge regression on the features before it."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from jaxage.models.registry import create_model
from jaxage.training.export import ModelConfig
from jaxage.training.history import write_history
from jaxage.training.loop import Program, Progress
from jaxage.training.predictor import scores
from jaxage.training.run_folder import Run
from jaxage.types import Json, Variables
from jaxage.utils import cluster
from jaxage.utils.sharding import replicate, to_host
from jaxage.utils.trees import is_within, map_named

STRENGTHS = tuple(float(strength) for strength in np.logspace(-6, 1, 29))


class Linear(NamedTuple):
    """`features @ kernel + bias`, for each of several strengths: (strengths, inputs), (strengths,), float64."""

    kernel: Float[np.ndarray, "strengths inputs"]
    bias: Float[np.ndarray, " strengths"]


def ridge(
    features: Float[np.ndarray, "n inputs"], target: Float[np.ndarray, " n"], strengths: tuple[float, ...]
) -> Linear:
    """Ridge regression (Hoerl and Kennard 1970) in float64, one eigendecomposition for all strengths.

    Minimizes the mean squared error plus `strength` times the squared weights of the standardized features. The bias
    is not penalized; features that do not vary get no weight.

    Args:
        features: One row per image.
        target: One value per image.
        strengths: The penalties to solve for.
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


def solve(program: Program, variables: Variables, model_config: ModelConfig, run: Run) -> tuple[Variables, Progress]:
    """Find the head by ridge regression, with the strength that has the best validation MAE.

    Args:
        program: Has the cached features; every view of every training image counts.
        variables: The network; its trunk stays as it is.
        model_config: Standardizes the ages, and names the network.
        run: Gets the history, a line for each strength.

    Returns:
        The variables with the new head, and the history; `best_epoch` is the number of the chosen strength.
    """
    started = time.perf_counter()
    loader = program.inputs.loader
    items = to_host(loader.items) if isinstance(loader.items, jax.Array) else loader.items
    ages = np.asarray(loader.ages)
    view_rows, rows = program.inputs.view_rows.ravel(), program.records.rows_of("validation")
    target = (ages[view_rows] - model_config.age_mean) / model_config.age_std
    kernels, biases = ridge(items[view_rows], target, STRENGTHS)
    objective, features = model_config.objective(), items[program.inputs.eval_rows[rows]].mean(1)
    history: list[Json] = []
    for number, (strength, kernel, bias) in enumerate(zip(STRENGTHS, kernels, biases, strict=True), 1):
        logits = (features @ kernel + bias).astype(np.float32)
        found = scores(np.asarray(objective.predict(jnp.asarray(logits)[:, None])), program.records.age[rows])
        history.append({"epoch": number, "strength": strength, "validation": found})
    best = min(history, key=lambda line: line["validation"]["mae"])
    chosen = best["epoch"] - 1
    run.log(
        f"ridge regression: of {len(STRENGTHS)} strengths {best['strength']:.1e} has the best validation MAE, "
        f"{best['validation']['mae']:.3f}"
    )
    write_history(run, history)
    kernel, bias = cluster.agree([kernels[chosen].tolist(), biases[chosen].item()])  # to the last bit
    head = {"kernel": np.asarray(kernel)[:, None], "bias": np.asarray([bias])}
    name = create_model(model_config.arch).spec.head

    def solved(leaf: str, value: jax.Array) -> jax.Array:
        if not is_within(leaf, name):
            return value
        return replicate(head[leaf.rsplit(".", 1)[1]].astype(np.float32), program.mesh)

    params = map_named(solved, variables["params"])
    now = time.perf_counter()
    done = Progress(history, best["epoch"], train_s=now - started, run_s=now - run.started, images=len(view_rows))
    return variables | {"params": params}, done
