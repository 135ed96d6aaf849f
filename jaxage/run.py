"""A run is a folder: where it lies, what it was asked to do, and on what it ran."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax

from jaxage.config import TrainConfig, from_json, to_json
from jaxage.types import UserError

CONFIG, REPORT, METRICS = "config.json", "report.json", "metrics.jsonl"
_NOT_COMPARED = ("out", "resume")


class RunError(UserError):
    """A run folder that cannot be used as asked."""


def find_run(config: TrainConfig, root: Path = Path("runs")) -> tuple[TrainConfig, Path]:
    """The settings that hold and the folder, for a new run or the one to resume; nothing is written.

    Raises RunError if the folder has a run and `resume` is off, or if a resumed run was started with other settings.
    """
    if config.data is not None:
        config = dataclasses.replace(config, data=config.data.resolve())
    folder = config.out or (_newest(config, root) if config.resume else None) or root / _default_name(config)
    if (folder / CONFIG).exists():
        if not config.resume:
            raise RunError(f"{folder} already holds a run: add --resume to go on with it, or choose another --out")
        return _same_settings(config, read_config(folder), folder), folder
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise RunError(f"{folder} is not an empty folder and holds no run: choose another --out")
    return config, folder


def create_run(config: TrainConfig, folder: Path) -> None:
    """Write the settings and the environment of a new run; one that exists stays as it is."""
    if (folder / CONFIG).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, to_json(config))
    write_json(folder / "environment.json", environment())


def read_config(folder: Path) -> TrainConfig:
    """The settings of the run in `folder`. Raises RunError if it holds none."""
    path = folder / CONFIG
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it holds no {CONFIG}")
    return from_json(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, value: Any) -> None:
    """Write JSON (NaN refused) under a temporary name and rename it into place."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name and rename it into place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


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
    return f"{config.arch}-{config.trainable.replace(' ', '').replace(',', '+').replace(':', 'x')}-"


def _newest(config: TrainConfig, root: Path) -> Path | None:
    found = sorted(path.parent for path in root.glob(f"{_prefix(config)}*/{CONFIG}"))
    return found[-1] if found else None


def _same_settings(asked: TrainConfig, stored: TrainConfig, folder: Path) -> TrainConfig:
    """The stored settings, if all that was asked for explicitly (other than the default) agrees with them."""
    for field in dataclasses.fields(TrainConfig):
        new, old = getattr(asked, field.name), getattr(stored, field.name)
        if field.name not in _NOT_COMPARED and new != field.default and new != old:
            option = field.name.replace("_", "-")
            raise RunError(
                f"{folder} was started with --{option} {old}, not {new}: resume with the same settings, or start "
                "a new run with another --out"
            )
    return stored
