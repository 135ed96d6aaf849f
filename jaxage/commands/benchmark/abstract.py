"""The compiled functions of a run with shapes in place of arrays: to look at programs without running them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.stages import Wrapped

from jaxage.config import TrainConfig
from jaxage.data.sampler import EpochBatches
from jaxage.losses import make_objective
from jaxage.models.ops.conv import ConvForm
from jaxage.models.registry import create_model
from jaxage.training.freeze import make_freeze_plan, parse_trainable
from jaxage.training.inputs import from_images
from jaxage.training.optimizer import make_optimizer
from jaxage.training.state import init_state
from jaxage.training.step import StepOptions, make_predict_step, make_train_step
from jaxage.types import Arch, Dtype, InputContract
from jaxage.utils.sharding import along_items

_STEPS = 6


class Case(NamedTuple):
    """What is measured: a network, its trainable layers, images per step, and the dtype of the trunk."""

    arch: Arch
    trainable: str
    batch_size: int
    dtype: Dtype


class AbstractProgram(NamedTuple):
    """A jitted function and the shapes of its arguments: `function.lower(*arguments)`."""

    function: Wrapped
    arguments: tuple[Any, ...]


def abstract_programs(
    case: Case, image_size: int, mesh: Mesh, conv_form: ConvForm | None = None
) -> dict[str, AbstractProgram]:
    """The programs "step" and "predict" of a case, from images that lie on the devices.

    Args:
        case: The network and how it is trained.
        image_size: Height and width in pixels.
        mesh: The devices to compile for; they need not exist (see `jax.experimental.topologies`).
        conv_form: As for `create_model`.
    """
    arch, trainable, batch, dtype = case
    model = create_model(arch, dtype=dtype, conv_form=conv_form)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    plan = make_freeze_plan(model, variables, parse_trainable(trainable, variables["params"]), "eval")
    optimizer = make_optimizer(TrainConfig(arch=arch, trainable=trainable), plan, total_steps=_STEPS)
    input_fn = from_images(model, InputContract()[:2], start=plan.first_block)
    objective = make_objective("l1", 40.0, 20.0)
    state = jax.eval_shape(lambda v: init_state(v, optimizer), variables)
    shape = _STEPS * batch, image_size, image_size, 3
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=along_items(mesh))
    ages = jax.ShapeDtypeStruct((_STEPS * batch,), jnp.float32)
    rows: Any
    weights: Any
    rows, weights = (jax.ShapeDtypeStruct((_STEPS, batch), dtype) for dtype in (jnp.int32, jnp.float32))
    step = make_train_step(model, objective, optimizer, plan, input_fn, StepOptions(mesh, 0, 0.999))
    predict = make_predict_step(model, objective, input_fn, mesh)
    return {
        "step": AbstractProgram(step, (state, images, ages, EpochBatches(rows, rows, weights))),
        "predict": AbstractProgram(predict, (state.average, images, jax.ShapeDtypeStruct((batch, 1), jnp.int32))),
    }
