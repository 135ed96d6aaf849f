"""What a run begins with: checked settings, what learns, and the first weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset
from jaxage.data.load import image_size
from jaxage.data.records import DataError
from jaxage.losses import make_objective
from jaxage.models.registry import Model, create_model
from jaxage.pretrained.load import RANDOM, find_input, find_weights, merge
from jaxage.report.event_file import require_writer
from jaxage.training.export import ModelConfig
from jaxage.training.freeze import FreezePlan, Group, make_freeze_plan, parse_trainable
from jaxage.training.unfreeze import parse_unfreeze
from jaxage.types import Dtype, InputContract, Json, Log, UserError, Variables, WeightsUnavailableError
from jaxage.utils.sharding import mesh_for
from jaxage.utils.trees import is_within

_CACHED = ("device", "host", "disk")


class Setup(NamedTuple):
    """What follows from the settings alone.

    plan: the trainable parameters. mesh: the devices. input: what the weights expect of an image.
    """

    plan: FreezePlan
    mesh: Mesh
    input: InputContract


class InitialModel(NamedTuple):
    """The network before the first step: its config, its variables, and the report's entry for its weights."""

    model_config: ModelConfig
    variables: Variables
    weights: Json


def check_settings(config: TrainConfig) -> Setup:
    """Validate all settings that can be checked before data are read and weights are downloaded.

    Raises:
        UserError: for an unknown network, module, loss or tag of weights, a head that is left out, options that cannot
            go together, a batch that does not divide among the devices, and a missing extra `tensorboard`.
    """
    if config.tensorboard:
        require_writer()
    mesh = mesh_for(config.batch_size)
    model = create_model(config.arch)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    groups = parse_trainable(config.trainable, variables["params"])
    _require_head(config, groups, model.spec.head)
    parse_unfreeze(config.unfreeze, groups, total_steps=1)  # the number of steps is not known yet
    plan = make_freeze_plan(model, variables, groups, config.frozen_bn)
    make_objective(config.loss, mean=0.0, std=1.0)
    _check_views(config)
    _check_cache(config, plan, model)
    _check_ridge(config, plan, model.spec.head)
    _check_batch_norm(config, plan, model, variables)
    return Setup(plan, mesh, find_input(config.weights, config.arch))


def choose_dtype(config: TrainConfig) -> Dtype:
    """`config.dtype`, or for "auto" bfloat16 on a GPU, float32 elsewhere."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if jax.default_backend() == "gpu" else "float32"


def initialize(config: TrainConfig, setup: Setup, dataset: Dataset, log: Log) -> InitialModel:
    """The network before the first step, its head drawn at random.

    Args:
        config: Says which network and weights, and the seed of the head.
        setup: From `check_settings`.
        dataset: Its training ages standardize the output of a regression.
        log: The logger.

    Raises:
        DataError: if all training ages are the same.
        UserError: (WeightsError, ConversionError) for weights that do not fit the network.
        WeightsUnavailableError: if they cannot be fetched; a run on drawn faces starts from random ones instead.
    """
    model_config = _model_config(config, setup, dataset)
    model = model_config.model()
    fresh = model.init(jax.random.key(config.seed))
    variables, weights = fresh, {"tag": RANDOM, "sha256": None}
    if config.weights != RANDOM:
        try:
            found = find_weights(config.weights, config.arch)
            for note in found.notes:
                log(f"weights: {note}")
            variables = merge(fresh, found.variables, model.spec.head)
            weights = {"tag": found.tag, "sha256": found.sha256}
        except WeightsUnavailableError as error:
            if config.data is not None:
                raise
            log(str(error))
    if config.data is None:
        log(_banner(str(weights["tag"])))
    return InitialModel(model_config, variables, weights)


def _model_config(config: TrainConfig, setup: Setup, dataset: Dataset) -> ModelConfig:
    ages = dataset.records.age[dataset.records.rows_of("train")]
    mean, std = float(ages.mean()), float(ages.std())
    if std == 0:
        raise DataError(f"{dataset.name}: every age in the training split is {mean:g}, there is nothing to learn")
    size = dataset.images.shape[1]
    return ModelConfig(
        config.arch, config.loss, size, mean, std, config.flip, choose_dtype(config), **setup.input._asdict()
    )


def _require_head(config: TrainConfig, groups: tuple[Group, ...], head: str) -> None:
    if not any(group.holds(head) or is_within(group.name, head) for group in groups):
        raise UserError(
            f"--trainable {config.trainable} leaves out the head, which is new and drawn at random: add {head}"
        )


def _check_cache(config: TrainConfig, plan: FreezePlan, model: Model) -> None:
    asked = f"--cache-features {config.cache_features}"
    if config.cache_features not in _CACHED:
        return
    if plan.first_block == model.spec.units[0]:
        raise UserError(
            f"{asked} caches what the layers below the lowest trainable one give, and here there are none: use "
            "--cache-features auto, a smaller --trainable, or --frozen-bn eval"
        )
    if config.augment:
        raise UserError(
            f"--augment draws images anew at every step, and {asked} keeps what the frozen layers give for fixed "
            "ones: leave one out (--views 4 keeps two random crops of each image)"
        )


def _check_views(config: TrainConfig) -> None:
    if config.augment and config.views > 2:
        raise UserError(
            f"--augment draws images anew at every step, and --views {config.views} asks for fixed ones: leave one out"
        )


def _check_ridge(config: TrainConfig, plan: FreezePlan, head: str) -> None:
    if config.solver != "ridge":
        return
    reasons = {
        f"--trainable {head}": plan.head_only and plan.first_block == head,
        "--loss mse (or l1, huber: it minimizes the square)": config.loss != "dldl",
        "cached features, so no --cache-features off": config.cache_features != "off",
        "fixed views, so no --augment": not config.augment,
        "images that count alike, so no --balance": not config.balance,
    }
    if wrong := [reason for reason, holds in reasons.items() if not holds]:
        frozen = " and --frozen-bn eval" if config.frozen_bn == "train" else ""
        raise UserError(f"--solver ridge fits a head of one output to features: it needs {', '.join(wrong)}{frozen}")


def _check_batch_norm(config: TrainConfig, plan: FreezePlan, model: Model, variables: Variables) -> None:
    """Trace the forward pass, so that BatchNorm raises its UserError now if a channel would have only one value."""
    size = image_size(config)
    images = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.float32)
    jax.eval_shape(lambda v, x: model.apply(v, x, train_bn=plan.train_bn).logits, variables, images)


def _banner(weights: str) -> str:
    lines = (
        "DEMONSTRATION on drawn faces, weights: " + weights,
        "The numbers show that it runs; they say nothing of people.",
    )
    width = max(len(line) for line in lines)
    edge = "*" * (width + 4)
    return "\n".join([edge, *(f"* {line:<{width}} *" for line in lines), edge])
