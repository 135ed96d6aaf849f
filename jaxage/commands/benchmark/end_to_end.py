"""Time whole fine-tuning runs, each in its own process, from files to test metrics."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from jaxage.commands.benchmark.abstract import Case
from jaxage.commands.benchmark.torch_baseline import UsualLoop
from jaxage.data.dataset import Dataset
from jaxage.types import Json


def end_to_end(case: Case, data: Dataset, epochs: int, *, with_torch: bool) -> Json:
    """Time whole processes: jaxage with an empty cache, jaxage again with that cache, and torch's usual loop.

    Args:
        case: The network and how it is trained.
        data: The images; they are written to JPEG files first.
        epochs: The number of epochs.
        with_torch: Whether to run torch too.

    Returns:
        `arch`, `trainable`, `images`, and the seconds `first_s`, `second_s` and `torch_s`.

    Raises:
        RuntimeError: With the end of its output, if a process fails.
    """
    size = data.images.shape[1]
    with tempfile.TemporaryDirectory(prefix="jaxage-benchmark-") as name:
        folder = Path(name)
        table = _write_files(folder, data)
        settings = case._asdict() | {"weights": "random", "data": table, "image_size": size, "epochs": epochs}
        options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        jaxage = [sys.executable, "-m", "jaxage.cli", "train", *options]
        runs = {key: [*jaxage, f"--out={folder / key}"] for key in ("first", "second")}
        if with_torch:
            loop = UsualLoop(str(table), case.arch, case.trainable, size, case.batch_size, epochs)
            runs["torch"] = torch_command(loop)
        variables = dict(os.environ) | {"JAXAGE_CACHE": str(folder / "cache")}
        times = {
            f"{key}_s": round(_run_process(command, variables, folder / "output.txt"), 2)
            for key, command in runs.items()
        }
    return {"arch": case.arch, "trainable": case.trainable, "images": len(data.records), **times}


def torch_command(loop: UsualLoop) -> list[str]:
    """The command that runs the usual loop."""
    return [sys.executable, "-m", "jaxage.commands.benchmark.torch_baseline", json.dumps(loop._asdict())]


def _run_process(command: list[str], variables: dict[str, str], output: Path) -> float:
    """The seconds that a process takes."""
    started = time.perf_counter()
    with output.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, env=variables, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output.read_text(encoding='utf-8')[-3000:]}")
    return time.perf_counter() - started


def _write_files(folder: Path, data: Dataset) -> Path:
    """Write the images as JPEG files, and a CSV that lists them."""
    table = folder / "faces.csv"
    columns = data.records.path, data.records.age, data.records.split
    lines = [f"{path},{age:.1f},{split}" for path, age, split in zip(*columns, strict=True)]
    table.write_text("path,age,split\n" + "\n".join(lines) + "\n", encoding="utf-8")
    for path, pixels in zip(data.records.path, data.images, strict=True):
        Image.fromarray(pixels).save(folder / path, quality=90)
    return table
