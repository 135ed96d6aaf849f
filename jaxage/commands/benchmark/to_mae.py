"""Time training until the validation error is small enough, from launch, each run in its own process."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxage.commands.benchmark.abstract import Case
from jaxage.commands.benchmark.end_to_end import torch_command
from jaxage.commands.benchmark.torch_baseline import UsualLoop
from jaxage.data.files import image_root, open_files
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.records import DataError
from jaxage.data.splits import assign_splits, require_splits
from jaxage.models.registry import find_network
from jaxage.pretrained.convert import to_torch
from jaxage.pretrained.load import RANDOM, find_weights, weights_path
from jaxage.training.history import HISTORY
from jaxage.types import Arch, Json
from jaxage.utils.text import quoted
from jaxage.utils.trees import is_within

_POLL_S = 0.05


class Race(NamedTuple):
    """What is timed: faces.csv with files beside it, the error in years, image size, epochs at most, and seeds."""

    table: Path
    mae: float
    image_size: int
    epochs: int
    seeds: int
    weights: str


def copy_faces(source: Path, folder: Path) -> Path:
    """Copy the files of a CSV into a folder, beside a CSV with path, age and split: torch's loop reads files and needs
    splits, so both read these. What has no split is divided at random.

    Raises:
        DataError: for a CSV that cannot be used, and an image that cannot be read.
    """
    records = read_csv(source)
    if not all(records.split):
        records = assign_splits(records, "random", seed=0)
    require_splits(records)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with open_files(image_root(source, records.path[0])) as files:
        for i, (path, age, split) in enumerate(zip(records.path, records.age, records.split, strict=True)):
            name = f"{i:06}{Path(path).suffix}"
            try:
                (folder / name).write_bytes(files.read(path))
            except OSError as error:
                raise DataError(
                    f"{quoted(path)} of {quoted(source)} cannot be copied: {error.strerror or error}"
                ) from error
            rows.append((name, f"{age:g}", split))
    table = folder / "faces.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "age", "split"), *rows])
    return table


def to_mae(case: Case, race: Race, *, with_torch: bool) -> Json:
    """Seconds from launch until the validation MAE after an epoch is at most `race.mae`.

    Args:
        case: The network and how it is trained. jaxage has its defaults for all else.
        race: What is timed.
        with_torch: Whether to run torch's usual loop too.

    Returns:
        `arch`, `trainable`, and medians over the seeds: `first_s` with an empty cache, `second_s` with the first run's
        cache, `torch_s`. None if one of the seeds did not come to the error.

    Raises:
        UserError: (WeightsError, ConversionError) for weights that cannot be used.
        WeightsUnavailableError: if they cannot be fetched.
        RuntimeError: with the end of its output, if a process fails.
    """
    times: dict[str, list[float | None]] = {}
    tensors = _save_trunk(race.table.parent / f"{case.arch}.npz", case.arch, race.weights)
    for seed in range(race.seeds):
        with tempfile.TemporaryDirectory(prefix="jaxage-benchmark-") as name:
            folder = Path(name)
            for key in ("first", "second"):
                command = _jaxage(case, race, seed, folder / key)
                times.setdefault(f"{key}_s", []).append(_run_until(command, folder, folder / key / HISTORY, race))
            if with_torch:
                settings = case.arch, case.trainable, race.image_size, case.batch_size, race.epochs, tensors, seed
                command = torch_command(UsualLoop(str(race.table), *settings))
                times.setdefault("torch_s", []).append(_run_until(command, folder, folder / "output.txt", race))
    return {"arch": case.arch, "trainable": case.trainable, **{key: median_of(each) for key, each in times.items()}}


def _jaxage(case: Case, race: Race, seed: int, out: Path) -> list[str]:
    named = weights_path(race.weights, case.arch)
    settings = case._asdict() | {
        "weights": named.resolve() if named else race.weights,
        "data": race.table,
        "image_size": race.image_size,
        "epochs": race.epochs,
        "seed": seed,
        "out": out,
    }
    options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "jaxage.cli", "train", *options]


def _save_trunk(path: Path, arch: Arch, weights: str) -> str | None:
    """Save the tensors that the usual loop starts from; None for random ones."""
    if weights == RANDOM:
        return None
    head = find_network(arch).head
    state = to_torch(find_weights(weights, arch).variables)
    tensors: Any = {name: value for name, value in state.items() if not is_within(name, head)}
    np.savez(path, **tensors)
    return str(path)


def _run_until(command: list[str], folder: Path, history: Path, race: Race) -> float | None:
    """The seconds until a line of the history has the error; the process is ended then. None if it never has."""
    variables, output = dict(os.environ) | {"JAXAGE_CACHE": str(folder / "cache")}, folder / "output.txt"
    started = time.perf_counter()
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, env=variables, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while True:
            ended = process.poll() is not None
            if best_mae(history) <= race.mae:
                return time.perf_counter() - started
            if ended:
                break
            time.sleep(_POLL_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output.read_text(encoding='utf-8')[-3000:]}")
    return None


def best_mae(history: Path) -> float:
    """The smallest validation MAE so far, in the whole lines of JSON that the file has."""
    if not history.exists():
        return float("inf")
    lines = history.read_text(encoding="utf-8").split("\n")[:-1]
    found = [json.loads(line)["validation"]["mae"] for line in lines if line.startswith("{")]
    return min((mae for mae in found if mae is not None), default=float("inf"))


def median_of(times: list[float | None]) -> float | None:
    """The median in seconds; None if one of the runs did not come to the error."""
    reached = [seconds for seconds in times if seconds is not None]
    return round(statistics.median(reached), 1) if len(reached) == len(times) else None
