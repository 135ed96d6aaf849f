"""Where a network looks: which parts of a face made it say older or younger."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxage.data.augment import normalize, to_unit
from jaxage.data.decode import decode_file
from jaxage.losses import Objective
from jaxage.models.registry import Model
from jaxage.report.saliency import overlay
from jaxage.training.export import load_model
from jaxage.types import Images, Log, UserError, Variables

_SIDE = 7


def explain(run: Path, images: Sequence[Path], out: Path, log: Log = print) -> list[Path]:
    """For each image file a picture in `out`: the face, and over it what the model exported in `run` looked at.

    They are named NAME-explained.png. Raises UserError for a run without a model, no images, one that cannot be used,
    and names that would overwrite each other.
    """
    variables, model_config = load_model(run)
    names = [f"{path.stem}-explained.png" for path in images]
    if not images:
        raise UserError("no images: name at least one image file")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"several images would become {', '.join(sorted(twice))}: name images of different names")
    model = model_config.model()
    size = model_config.image_size
    unit, side = map_unit(model, variables, size)
    look = jax.jit(partial(age_map, model, model_config.objective(), unit, flip=model_config.flip))
    log(f"what {_before(model, unit)} sees, {side} x {side} places of {size} px: blue says younger, orange older")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path, name in zip(images, names, strict=True):
        pixels = decode_file(path, size, model_config.input())
        batch = normalize(to_unit(jnp.asarray(pixels[None])), model_config.mean, model_config.std)
        ages, maps = look(variables, batch)
        overlay(out / name, pixels, np.asarray(maps[0]), f"{path.name}: {float(ages[0]):.1f} years")
        log(f"{path}\t{float(ages[0]):.1f}\t{out / name}")
        written.append(out / name)
    return written


def map_unit(model: Model, variables: Variables, size: int) -> tuple[str, int]:
    """The deepest unit that still takes a map of 7 x 7 places or more (else the first of the largest), and its side."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    units = model.spec.units[1 : model.spec.units.index("avgpool") + 1]
    sides: dict[str, int] = {}
    for unit in units:
        features: Any = jax.eval_shape(lambda v, x, u=unit: model.features(v, x, u), variables, images)
        sides[unit] = features.shape[1]
    wide = [unit for unit in units if sides[unit] >= _SIDE] or [max(units, key=lambda unit: sides[unit])]
    return wide[-1], sides[wide[-1]]


def age_map(
    model: Model, objective: Objective, unit: str, variables: Variables, images: Images, *, flip: bool = False
) -> tuple[Float[Array, " batch"], Float[Array, "batch y x"]]:
    """Predicted ages in years, and how much each place of what `unit` takes raises (above 0) or lowers them.

    The gradient of the age times the activation, summed over channels: HiResCAM (Draelos and Carin 2020), which is
    Grad-CAM without the ReLU where global pooling and a linear head follow. The gradient is that of the unclipped age:
    a newborn's map is not all zero. With `flip` both are means over the image and its mirror, whose map is turned back.
    """
    if flip:
        ages, maps = age_map(model, objective, unit, variables, images)
        mirrored_ages, mirrored = age_map(model, objective, unit, variables, images[:, :, ::-1])
        return (ages + mirrored_ages) / 2, (maps + mirrored[:, :, ::-1]) / 2
    features = model.features(variables, images, unit)

    def total(features: Array) -> tuple[Array, Array]:
        logits = model.apply(variables, features, start=unit).logits
        return objective.unclipped(logits).sum(), objective.predict(logits)

    gradient, ages = jax.grad(total, has_aux=True)(features)
    return ages, (gradient * features).astype(jnp.float32).sum(3)


def _before(model: Model, unit: str) -> str:
    units = model.spec.units
    return units[units.index(unit) - 1]
