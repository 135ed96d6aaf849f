"""Whole fine-tunings in processes of their own, from files to test metrics."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from jaxage.data.dataset import Dataset
from jaxage.types import Arch, Dtype


def launch(
    arch: Arch, trainable: str, data: Dataset, epochs: int, batch_size: int, dtype: Dtype, *, rivals: bool
) -> dict[str, Any]:
    """Seconds of whole processes: with nothing kept before, once more, and torch's usual loop."""
    size = data.images.shape[1]
    with tempfile.TemporaryDirectory(prefix="jaxage-benchmark-") as name:
        folder = Path(name)
        table = _write_files(folder, data)
        settings = {
            "arch": arch, "trainable": trainable, "weights": "random", "data": table, "image_size": size,
            "epochs": epochs, "batch_size": batch_size, "dtype": dtype,
        }  # fmt: skip
        options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        ours = [sys.executable, "-m", "jaxage.cli", "train", *options]
        theirs = [
            sys.executable,
            "-m",
            "jaxage.commands.benchmark.torch_baseline",
            str(table),
            arch,
            trainable,
            *map(str, (size, batch_size, epochs)),
        ]
        variables = dict(os.environ) | {"JAXAGE_CACHE": str(folder / "cache")}
        runs = {"first": [*ours, f"--out={folder / 'first'}"], "second": [*ours, f"--out={folder / 'second'}"]}
        if rivals:
            runs["torch"] = theirs
        found: dict[str, Any] = {"arch": arch, "trainable": trainable, "images": len(data.records)}
        for key, command in runs.items():
            found[f"{key}_s"] = round(_run_process(command, variables, folder / "output.txt"), 2)
    return found


def _run_process(command: list[str], variables: dict[str, str], output: Path) -> float:
    """Seconds that a process takes. Raises RuntimeError with the end of its output if it fails."""
    started = time.perf_counter()
    with output.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, env=variables, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output.read_text(encoding='utf-8')[-3000:]}")
    return time.perf_counter() - started


def _write_files(folder: Path, data: Dataset) -> Path:
    """The images as JPEG files, and a CSV of them."""
    table = folder / "faces.csv"
    columns = data.records.path, data.records.age, data.records.split
    lines = [f"{path},{age:.1f},{split}" for path, age, split in zip(*columns, strict=True)]
    table.write_text("path,age,split\n" + "\n".join(lines) + "\n", encoding="utf-8")
    for path, pixels in zip(data.records.path, data.images, strict=True):
        Image.fromarray(pixels).save(folder / path, quality=90)
    return table
