"""A run is a folder: where it lies, what it was asked to do, and on what it ran."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxage.config import TrainConfig, from_json, to_json
from jaxage.pretrained.load import weights_path
from jaxage.types import Json, Log, RunPath, UserError
from jaxage.utils import cluster
from jaxage.utils.files import lock_folder, name_errors, write_json

CONFIG, REPORT = "config.json", "report.json"
_INPUTS, _ENVIRONMENT, _RESOLVED = "inputs.json", "environment.json", "resolved.json"
_BEFORE_CONFIG = (_INPUTS, _ENVIRONMENT, _RESOLVED)
_NOT_COMPARED = ("out", "resume", "memory_budget", "tensorboard")
_RESOLVED_FIELDS = ("weights", "dtype", "cache_features")


class RunError(UserError):
    """A run folder that cannot be used as asked."""


class BusyError(RunError):
    """Another process works in the folder."""


@dataclass(frozen=True)
class Run:
    """A run that this process holds the lock of.

    folder: its folder. asked: the settings that were asked for when it was started. config: the same, with every
    "auto" that an earlier process has resolved (see `create_run`). log: the logger. started: `time.perf_counter()` at
    the start of this process.
    """

    folder: Path
    asked: TrainConfig
    config: TrainConfig
    log: Log
    started: float


@dataclass(frozen=True)
class RunName:
    """Where runs without --out are made: `root/PREFIX + ARCH-TRAINABLE-TIME`."""

    root: Path = Path("runs")
    prefix: str = ""

    def before_time(self, config: TrainConfig) -> str:
        """The part of the name before the time."""
        return f"{self.prefix}{config.arch}-{config.trainable.replace(',', '+').replace(':', 'x')}-"

    def newest(self, config: TrainConfig) -> Path | None:
        """The newest run of this network and these layers."""
        found = sorted(path.parent for path in self.root.glob(f"{self.before_time(config)}*/{CONFIG}"))
        return found[-1] if found else None

    def candidates(self, config: TrainConfig) -> Iterator[Path]:
        """Names for a new run; the first is that of the time alone."""
        folder = self.root / f"{self.before_time(config)}{time.strftime('%Y%m%d-%H%M%S')}"
        yield folder
        for number in range(2, 1000):
            yield folder.with_name(f"{folder.name}-{number}")


TRAIN_RUNS = RunName()


def find_run(
    config: TrainConfig, given: Collection[str] | None = None, name: RunName = TRAIN_RUNS
) -> tuple[TrainConfig, Path | None]:
    """Find the settings to use and the run's folder, or None for the folder if a new one must be named. Writes nothing.

    Args:
        config: The settings that are asked for.
        given: The fields that were typed. A resumed run must have been started with the same values of these. By
            default, the fields that differ from their defaults.
        name: Where runs without `out` are made.

    Raises:
        RunError: if the folder has a run and `resume` is off, holds other things, or was started with other settings.
    """
    config = _normalized(config)
    folder = config.out or (name.newest(config) if config.resume else None)
    if folder is None or not folder.exists():
        return config, folder
    if (folder / CONFIG).exists():
        if not config.resume:
            raise RunError(f"{folder} already holds a run: add --resume to continue it, or choose another --out")
        return _same_settings(config, given, folder), folder
    if not _is_unused(folder):
        raise RunError(f"{folder} is not an empty folder and holds no run: choose another --out")
    return config, folder


@contextmanager
def open_run(
    config: TrainConfig, log: Log, given: Collection[str] | None = None, name: RunName = TRAIN_RUNS
) -> Iterator[Run]:
    """Lock the run's folder, a new one or the one to resume, against every process of another job.

    Args: as for `find_run`; `log` is the run's logger.

    Raises:
        RunError: as `find_run` does, and if another process works in the folder. Nothing in it is touched then.
    """
    started = time.perf_counter()
    with ExitStack() as stack:
        folder = Path(cluster.first(lambda: str(_lock(stack, config, given, name))))
        cluster.require_shared(folder)
        stack.enter_context(name_errors(folder))
        asked, _ = find_run(dataclasses.replace(config, out=folder), given, name)
        yield Run(
            folder, dataclasses.replace(asked, out=folder), _with_resolved(asked, folder), cluster.quiet(log), started
        )


def _lock(stack: ExitStack, config: TrainConfig, given: Collection[str] | None, name: RunName) -> Path:
    """The folder, locked until the stack ends. Of several runs that start at once each gets its own."""
    settings, folder = find_run(config, given, name)
    for candidate in [folder] if folder else name.candidates(settings):
        busy = BusyError(f"{candidate} is in use by another process: wait for it, or choose another --out")
        try:
            lock = stack.enter_context(ExitStack())
            lock.enter_context(lock_folder(candidate, busy))
        except BusyError:
            if folder:
                raise
            continue
        if folder or _is_unused(candidate):
            return candidate
        lock.close()
    raise RunError(f"no free name for a run in {name.root}: choose one with --out")


def finished_report(folder: Path | None) -> Json | None:
    """What `report.json` of a finished run holds, else None."""
    return _read_json(folder / REPORT) if folder and (folder / REPORT).exists() else None


def create_run(run: Run, inputs: Json) -> None:
    """Write the files of a new run: settings, resolved settings, inputs and environment. Do nothing if it is resumed,
    and in processes other than the first.

    `config.json` is written last: a folder with it is a run that can be resumed.

    Args:
        run: The run; `run.config` has a value for every "auto". Some depend on measured times, so a resumed run reads
            them back.
        inputs: JSON values that identify data and weights; `images` is the data's hash before they are divided.
    """
    if not cluster.is_first() or (run.folder / CONFIG).exists():
        return
    write_json(run.folder / _INPUTS, inputs)
    write_json(run.folder / _ENVIRONMENT, environment())
    write_json(run.folder / _RESOLVED, {name: getattr(run.config, name) for name in _RESOLVED_FIELDS})
    write_json(run.folder / CONFIG, to_json(run.asked))


def read_inputs(run: RunPath) -> Json:
    """What identifies the data and weights of a run; nothing for a model without its run."""
    path = Path(run) / _INPUTS
    return _read_json(path) if path.is_file() else {}


def require_inputs(folder: Path, inputs: Json) -> None:
    """Raise RunError if the folder has a run that was started with other inputs."""
    if not (folder / CONFIG).exists():
        return
    started = _read_json(folder / _INPUTS)
    changed = [name for name, value in inputs.items() if started.get(name, value) != value]
    if changed:
        values = "; ".join(f"{name} was {started.get(name)}, is {inputs[name]}" for name in changed)
        raise RunError(
            f"{folder}: its {' and '.join(changed)} have changed since it started ({values}): bring them back, or "
            "start a new run with another --out"
        )


def non_default_flags(config: TrainConfig) -> str:
    """The settings other than the defaults, as they are written on the command line."""
    fields = [field for field in dataclasses.fields(config) if field.name not in _NOT_COMPARED]
    values = {option(field.name): (getattr(config, field.name), field.default) for field in fields}
    return " ".join(_written(name, value) for name, (value, default) in values.items() if value != default)


def read_config(folder: Path) -> TrainConfig:
    """The settings of the run in `folder`, as they were asked for. Raises RunError if it holds none."""
    path = folder / CONFIG
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it holds no {CONFIG}")
    try:
        return from_json(_read_json(path))
    except TypeError as error:
        raise RunError(f"{path} is not of this version of jaxage ({error})") from error


def environment() -> Json:
    """Python, package versions, devices and machine, as JSON values."""
    packages = ("jaxage", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "devices": [device.device_kind for device in jax.devices()],
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


def option(field: str) -> str:
    """A field of the settings as it is written on the command line."""
    return "--" + field.replace("_", "-")


def _written(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else name.replace("--", "--no-", 1)
    return f"{name} {value}"


def _read_json(path: Path) -> Json:
    try:
        value: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path} cannot be read ({reason}): start a new run") from error
    return value


def _is_unused(folder: Path) -> bool:
    """Whether the folder is empty, but for files that a run killed before its `config.json` was written left."""
    return folder.is_dir() and all(path.name[0] == "." or path.name in _BEFORE_CONFIG for path in folder.iterdir())


def _normalized(config: TrainConfig) -> TrainConfig:
    """The same settings, with absolute paths of data and weights, and no spaces in lists of modules."""
    trainable, unfreeze = ("".join(text.split()) for text in (config.trainable, config.unfreeze))
    config = dataclasses.replace(config, trainable=trainable, unfreeze=unfreeze)
    if config.data is not None:
        config = dataclasses.replace(config, data=config.data.resolve())
    if path := weights_path(config.weights, config.arch):
        config = dataclasses.replace(config, weights=str(path.resolve()))
    return config


def _same_settings(asked: TrainConfig, given: Collection[str] | None, folder: Path) -> TrainConfig:
    """The stored settings; a typed option that differs is refused. `memory_budget` and `resume` are the new ones, and
    `tensorboard` too if it is typed; so is the place of `data`, which are known by their hash (`require_inputs`).

    Runs of earlier versions have no `resolved.json`: their settings have the chosen value in place of "auto".
    """
    stored = read_config(folder)
    is_earlier = not (folder / _RESOLVED).exists()
    for field in dataclasses.fields(TrainConfig):
        new, old = getattr(asked, field.name), getattr(stored, field.name)
        is_given = new != field.default if given is None else field.name in given
        if is_earlier and field.name in _RESOLVED_FIELDS and new == field.default:
            continue
        moved = field.name == "data" and new and old
        if field.name not in _NOT_COMPARED and is_given and new != old and not moved:
            raise RunError(
                f"{folder} was started with {_written(option(field.name), old)}, not "
                f"{_written(option(field.name), new)}: resume with the same settings, or start a new run with another "
                "--out"
            )
    is_typed = asked.tensorboard if given is None else "tensorboard" in given
    follow = asked.tensorboard if is_typed else stored.tensorboard
    data = asked.data if asked.data and stored.data else stored.data
    return dataclasses.replace(
        stored, memory_budget=asked.memory_budget, resume=asked.resume, tensorboard=follow, data=data
    )


def _with_resolved(config: TrainConfig, folder: Path) -> TrainConfig:
    path = folder / _RESOLVED
    if not ((folder / CONFIG).exists() and path.exists()):
        return dataclasses.replace(config, out=folder)
    try:
        return dataclasses.replace(config, out=folder, **_read_json(path))
    except TypeError as error:
        raise RunError(f"{path} is not of this version of jaxage ({error}): start a new run") from error
