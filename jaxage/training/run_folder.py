"""A run is a folder: where it lies, what it was asked to do, and on what it ran."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxage.config import TrainConfig, from_json, to_json
from jaxage.types import UserError
from jaxage.utils.files import lock_folder, write_json

CONFIG, REPORT, HISTORY = "config.json", "report.json", "metrics.jsonl"
_INPUTS = "inputs.json"
_NOT_COMPARED = ("out", "resume", "memory_budget")


class RunError(UserError):
    """A run folder that cannot be used as asked."""


def find_run(config: TrainConfig, root: Path = Path("runs")) -> tuple[TrainConfig, Path]:
    """The settings that hold and the folder, for a new run or the one to resume; nothing is written.

    Raises RunError if the folder has a run and `resume` is off, or if a resumed run was started with other settings.
    """
    trainable, unfreeze = ("".join(text.split()) for text in (config.trainable, config.unfreeze))
    config = dataclasses.replace(config, trainable=trainable, unfreeze=unfreeze)
    if config.data is not None:
        config = dataclasses.replace(config, data=config.data.resolve())
    if Path(config.weights).is_file():
        config = dataclasses.replace(config, weights=str(Path(config.weights).resolve()))
    folder = config.out or (_newest(config, root) if config.resume else None) or root / _default_name(config)
    if (folder / CONFIG).exists():
        if not config.resume:
            raise RunError(f"{folder} already holds a run: add --resume to go on with it, or choose another --out")
        return _same_settings(config, read_config(folder), folder), folder
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise RunError(f"{folder} is not an empty folder and holds no run: choose another --out")
    return config, folder


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keep the folder from every other process; it vanishes again if no run was created in it.

    Raises RunError if another process has it.
    """
    busy = RunError(f"{folder} is in use by another process: wait for it, or choose another --out")
    with lock_folder(folder, busy):
        yield


def create_run(config: TrainConfig, folder: Path, inputs: dict[str, Any]) -> None:
    """Write the settings, the environment, and what went in (JSON values that name data and weights) of a new run.

    Raises RunError for a run that exists and that other inputs went into.
    """
    if (folder / CONFIG).exists():
        require_inputs(folder, inputs)
        return
    write_json(folder / _INPUTS, inputs)
    write_json(folder / "environment.json", environment())
    write_json(folder / CONFIG, to_json(config))


def require_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Raises RunError unless these went into the run in `folder`."""
    started = _read_json(folder / _INPUTS)
    changed = [name for name, value in inputs.items() if started.get(name) != value]
    if changed:
        values = "; ".join(f"{name} was {started.get(name)}, is {inputs[name]}" for name in changed)
        raise RunError(
            f"{folder}: its {' and '.join(changed)} have changed since it started ({values}): bring them back, or "
            "start a new run with another --out"
        )


def non_default_flags(config: TrainConfig) -> str:
    """The settings other than the defaults, as they are written on the command line."""
    fields = [field for field in dataclasses.fields(config) if field.name not in _NOT_COMPARED]
    values = {_option(field.name): (getattr(config, field.name), field.default) for field in fields}
    return " ".join(_written(option, value) for option, (value, default) in values.items() if value != default)


def _written(option: str, value: Any) -> str:
    if isinstance(value, bool):
        return option if value else option.replace("--", "--no-", 1)
    return f"{option} {value}"


def read_config(folder: Path) -> TrainConfig:
    """The settings of the run in `folder`. Raises RunError if it holds none."""
    path = folder / CONFIG
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it holds no {CONFIG}")
    try:
        return from_json(_read_json(path))
    except TypeError as error:
        raise RunError(f"{path} is not of this version of jaxage ({error})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path} cannot be read ({reason}): start a new run") from error
    return value


def environment() -> dict[str, Any]:
    """Python, package versions, devices and machine, as JSON values."""
    packages = ("jaxage", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "devices": [device.device_kind for device in jax.devices()],
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


def _default_name(config: TrainConfig) -> str:
    return f"{_prefix(config)}{time.strftime('%Y%m%d-%H%M%S')}"


def _prefix(config: TrainConfig) -> str:
    return f"{config.arch}-{config.trainable.replace(',', '+').replace(':', 'x')}-"


def _newest(config: TrainConfig, root: Path) -> Path | None:
    found = sorted(path.parent for path in root.glob(f"{_prefix(config)}*/{CONFIG}"))
    return found[-1] if found else None


def _same_settings(asked: TrainConfig, stored: TrainConfig, folder: Path) -> TrainConfig:
    """The stored settings, if all that was asked for explicitly (other than the default) agrees with them; what cannot
    change results is as asked.
    """
    for field in dataclasses.fields(TrainConfig):
        new, old = getattr(asked, field.name), getattr(stored, field.name)
        if field.name not in _NOT_COMPARED and new != field.default and new != old:
            raise RunError(
                f"{folder} was started with {_option(field.name)} {old}, not {new}: resume with the same settings, "
                "or start a new run with another --out"
            )
    return dataclasses.replace(stored, memory_budget=asked.memory_budget)


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
