"""Nothing is computed for what does not learn: the seven configurations and their budgets."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from jaxage.commands.benchmark.abstract import Case, abstract_programs
from jaxage.losses import make_objective
from jaxage.models.registry import Model, create_model
from jaxage.training.freeze import FreezePlan, make_freeze_plan, parse_trainable
from jaxage.types import Arch, Params, Variables
from jaxage.utils.sharding import make_mesh
from jaxage.utils.trees import flatten, unflatten

BATCH, SIZE = 32, 64
OBJECTIVE = make_objective("huber", 40.0, 20.0)


def flops(function: Any, *arguments: Any) -> float:
    return float(jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"])


def needed(model: Model, variables: Variables, plan: FreezePlan) -> float:
    """Forward and the needed backward: differentiation by the learning leaves alone, the rest plain constants."""
    leaves = flatten(variables["params"])
    learning = {name: leaf for name, leaf in leaves.items() if any(group.holds(name) for group in plan.groups)}
    frozen = {name: leaf for name, leaf in leaves.items() if name not in learning}

    def loss(learning: Params, frozen: Params, batch_stats: Params, images: Array, ages: Array) -> Any:
        params = unflatten(learning | frozen)
        output = model.apply({"params": params, "batch_stats": batch_stats}, images, train_bn=plan.train_bn)
        return OBJECTIVE.loss(output.logits, ages, jnp.ones(BATCH)), output.batch_stats

    images = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.float32)
    ages = jax.ShapeDtypeStruct((BATCH,), jnp.float32)
    return flops(jax.grad(loss, has_aux=True), learning, frozen, variables["batch_stats"], images, ages)


def spent(case: Case) -> float:
    step, arguments = abstract_programs(case, SIZE, make_mesh(jax.devices()[:1]))["step"]
    return float(step.lower(*arguments).compile().cost_analysis()["flops"])


@pytest.mark.parametrize(
    ("arch", "trainable"),
    [
        ("mobilenet_v2", "classifier"),
        ("mobilenet_v2", "all"),
        ("resnet18", "fc"),
        ("resnet18", "fc,layer4"),
        ("resnet18", "fc,layer4,layer3"),
        ("resnet18", "fc,layer4,layer3,layer2"),
        ("resnet18", "fc,layer4,layer3,layer2,layer1"),
    ],
)
def test_a_step_costs_the_forward_and_the_needed_backward(arch: Arch, trainable: str) -> None:
    model = create_model(arch)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    plan = make_freeze_plan(model, variables, parse_trainable(trainable, variables["params"]), "eval")
    ratio = spent(Case(arch, trainable, BATCH, "float32")) / needed(model, variables, plan)
    assert 0.95 < ratio <= 1.05
