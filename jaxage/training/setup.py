"""What a run begins with: settings that were checked, the contract of its network, and the weights."""

import jax

from jaxage.commands.study.recipes import ModelSpec
from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset
from jaxage.data.records import DataError
from jaxage.models.registry import create_model
from jaxage.pretrained.download import WeightsUnavailableError
from jaxage.pretrained.load import RANDOM, find_weights, merge
from jaxage.training.export import ModelConfig
from jaxage.training.freeze import Group, first_trainable_block, label_tree, parse_trainable, train_bn_modules
from jaxage.training.unfreeze import parse_unfreeze
from jaxage.types import Dtype, Log, LossName, UserError, Variables
from jaxage.utils.sharding import mesh_for
from jaxage.utils.trees import is_within


def check_settings(config: TrainConfig) -> tuple[Group, ...]:
    """What learns. Raises UserError for what can be known to be wrong before data and weights are fetched."""
    mesh_for(config.batch_size)
    model = create_model(config.arch)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    params = variables["params"]
    groups, head = parse_trainable(config.trainable, params), model.spec.head
    if not any(group.holds(head) or is_within(group.name, head) for group in groups):
        raise UserError(
            f"--trainable {config.trainable} leaves out the head, which is new and drawn at random: add {head}"
        )
    parse_unfreeze(config.unfreeze, groups, total_steps=1)
    labels = label_tree(params, groups)
    start = first_trainable_block(
        model.spec.units, labels, train_bn_modules(variables["batch_stats"], labels, config.frozen_bn)
    )
    if config.cache_features in ("device", "host", "disk") and start == model.spec.units[0]:
        raise UserError(
            f"--cache-features {config.cache_features} keeps what the layers below the lowest that learns give, and "
            f"here there are none: use --cache-features auto, a smaller --trainable, or --frozen-bn eval"
        )
    if config.augment and config.cache_features in ("device", "host", "disk"):
        raise UserError(
            f"--augment draws images anew at every step, and --cache-features {config.cache_features} keeps what the "
            "frozen layers give for fixed ones: leave one out (--views 4 keeps two random crops of each image)"
        )
    closed = start == head and config.cache_features != "off" and choose_loss(config) != "dldl" and not config.balance
    if config.solver == "ridge" and not closed:
        raise UserError(
            f"--solver ridge fits a head of one output to features: it needs --trainable {head}, --loss mse (or l1, "
            "huber: it minimizes the square), --frozen-bn eval, kept features, and no --balance"
        )
    return groups


def choose_loss(config: TrainConfig) -> LossName:
    """The loss that is asked for, or the one that `TrainConfig.loss` says validated best for what learns."""
    if config.loss != "auto":
        return config.loss
    stages = config.arch == "resnet18" and not ModelSpec(config.arch, config.trainable).head_only
    return "huber" if stages else "dldl"


def make_model_config(config: TrainConfig, dataset: Dataset) -> ModelConfig:
    """What the network takes and gives. Raises DataError if all training ages are one."""
    ages = dataset.records.age[dataset.records.rows_of("train")]
    mean, std = float(ages.mean()), float(ages.std())
    if std == 0:
        raise DataError(f"{dataset.name}: every age in the training split is {mean:g}, there is nothing to learn")
    dtype: Dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    if config.dtype != "auto":
        dtype = config.dtype
    return ModelConfig(config.arch, choose_loss(config), dataset.images.shape[1], mean, std, config.flip, dtype)


def first_variables(config: TrainConfig, contract: ModelConfig, log: Log) -> tuple[Variables, dict[str, str | None]]:
    """The variables at step 0, and what the report says of them."""
    model = contract.model()
    fresh = model.init(jax.random.key(config.seed))
    drawn = fresh, {"tag": RANDOM, "sha256": None}
    demo = config.data is None
    if config.weights != RANDOM:
        try:
            found = find_weights(config.weights, config.arch)
            drawn = merge(fresh, found.variables, model.spec.head), {"tag": found.tag, "sha256": found.sha256}
        except WeightsUnavailableError as error:
            if not demo:
                raise
            log(str(error))
    if demo:
        log(_banner(str(drawn[1]["tag"])))
    return drawn


def _banner(weights: str) -> str:
    lines = (
        "DEMONSTRATION on drawn faces, weights: " + weights,
        "The numbers show that it runs; they say nothing of people.",
    )
    width = max(len(line) for line in lines)
    edge = "*" * (width + 4)
    return "\n".join([edge, *(f"* {line:<{width}} *" for line in lines), edge])
