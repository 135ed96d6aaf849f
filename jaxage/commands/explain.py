"""Where a network looks: which parts of a face made it say older or younger."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxage.commands.predict import faces_of
from jaxage.data.augment import normalize, to_unit
from jaxage.losses import Objective
from jaxage.models.registry import Model
from jaxage.photos.detector import Pixels
from jaxage.photos.faces import TOO_SMALL, make_face_finder
from jaxage.photos.files import list_photos
from jaxage.report.saliency import overlay
from jaxage.training.export import ModelConfig, load_model
from jaxage.types import FacesIn, Images, Log, RunPath, UserError, Variables
from jaxage.utils.files import explain_os_error
from jaxage.utils.text import visible

_SIDE = 7


def explain(
    run: RunPath, images: Sequence[str | Path], out: Path, faces: FacesIn = "auto", log: Log = print
) -> list[Path]:
    """A picture in `out` for each face of each photo: the face, and over it what the model exported in `run` looked at.

    They are named NAME-explained.png, or NAME-N-explained.png for the Nth of several faces.

    Args:
        run: The folder of a finished run, its `model/` folder, or `hf://owner/name@revision` on the Hugging Face Hub.
        images: Photos, and folders of photos.
        out: The folder for the pictures; made if need be.
        faces: As for `jaxage.predict`.
        log: Takes a line for each face, and for each photo without one.

    Raises:
        UserError: for a run without a model, no images, names that would overwrite each other, and, once all others
            are done, photos that gave no picture.
        WeightsUnavailableError: if the detector cannot be downloaded.
    """
    variables, model_config = load_model(run)
    if not images:
        raise UserError("no images: name at least one image file, or a folder")
    paths = list_photos(map(str, images))
    names = [Path(path).stem for path in paths]
    if twice := {f"{name}-explained.png" for name in names if names.count(name) > 1}:
        raise UserError(f"several images would become {', '.join(sorted(twice))}: name images of different names")
    finder = make_face_finder(faces, model_config.image_size, model_config.input(), model_config.framing)
    look, seen = make_explainer(variables, model_config)
    log(f"{seen}: blue says younger, orange older")
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    failed = 0
    for path, name in zip(paths, names, strict=True):
        found = faces_of(finder, path)
        shown = [] if isinstance(found, str) else [face.pixels for face in found if face.pixels is not None]
        if not shown:
            failed += 1
            log(f"{visible(path)}\t{found if isinstance(found, str) else TOO_SMALL}")
        for number, pixels in enumerate(shown, 1):
            file = out / f"{name}{f'-{number}' if len(shown) > 1 else ''}-explained.png"
            age, evidence = look(pixels)
            try:
                overlay(file, pixels, evidence, visible(f"{Path(path).name}: {age:.1f} years"))
            except OSError as error:
                failed += 1
                log(f"{visible(path)}\t{explain_os_error(error)}")
                continue
            log(f"{visible(path)}\t{age:.1f}\t{visible(str(file))}")
            written.append(file)
    if failed:
        raise UserError(f"{failed} of the images gave no picture; their lines say why")
    return written


Explainer = Callable[[Pixels], tuple[float, Float[np.ndarray, "y x"]]]
"""The pixels that a network takes, uint8 -> the age in years, and how much each place raises or lowers it."""


def make_explainer(variables: Variables, model_config: ModelConfig) -> tuple[Explainer, str]:
    """A compiled `age_map` of single images, and in words what it shows."""
    model = model_config.model()
    unit, side = map_unit(model, variables, model_config.image_size)
    mapped = jax.jit(partial(age_map, model, model_config.objective(), unit, flip=model_config.flip))

    def look(pixels: Pixels) -> tuple[float, Float[np.ndarray, "y x"]]:
        batch = normalize(to_unit(jnp.asarray(pixels[None])), model_config.mean, model_config.std)
        ages, maps = mapped(variables, batch)
        return float(ages[0]), np.asarray(maps[0])

    return look, f"what {_before(model, unit)} sees, {side} x {side} places of {model_config.image_size} px"


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
