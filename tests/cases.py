"""What becomes of many odd inputs: checkpoints, images, tables and archives as people have them.

    python -m tests.cases run GENERATORS WORK RUN OUT.json      # needs torch, torchvision and timm
    python -m tests.cases table BEFORE.json AFTER.json > cases.md

GENERATORS is a folder of scripts that make the inputs: `c01_weights.py` and so on. RUN is a trained model, for images.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.commands.predict import predict
from jaxage.data.dataset import load_dataset
from jaxage.models.registry import create_model
from jaxage.pretrained.load import load_pretrained
from jaxage.types import UserError
from jaxage.utils.trees import flatten

Outcomes = dict[str, str]


def outcome(work: Callable[[], str]) -> str:
    """What it gives, or the first words of its error."""
    try:
        return work()
    except UserError as error:
        first, *rest = str(error).splitlines()
        return f"error: {first}" + " …".join(["", *(line.strip() for line in rest[:1])])
    except Exception as error:
        return f"EXCEPTION {type(error).__name__}: {str(error)[:200]}"


def make(script: Path, work: Path, *arguments: str) -> None:
    """Run a generator."""
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, str(script), *arguments],
        check=True,
        cwd=work,
        env=os.environ | {"BUGS_WORK": str(work)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def weights(scripts: Path, work: Path) -> Iterator[tuple[str, str]]:
    """Checkpoints: how far the trunk that training starts from is from torch's own reading."""
    import torch

    make(scripts / "c01_weights.py", work, str(work))
    for path in sorted(work.iterdir()):
        arch = "mobilenet_v2" if path.name.startswith("mobilenet") else "resnet18"

        def load(path: Path = path, arch: str = arch) -> str:
            leaves = flatten(load_pretrained(create_model(arch, outputs=1), path))
            first = "features.0.0" if arch == "mobilenet_v2" else "conv1"
            found = np.asarray(leaves[f"params.{first}.kernel"]).transpose(3, 2, 0, 1)
            wanted = _tensor(torch, path, f"{first}.weight")
            return f"loaded, first convolution off by {np.abs(found - wanted).max():.1g}"

        yield path.name, outcome(load)


def _tensor(torch: Any, path: Path, name: str) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        content: Any = load_file(path)
    else:
        content = torch.load(path, weights_only=False)
    while True:
        found = [v for k, v in content.items() if str(k).endswith(name) or k == "0.weight"]
        if found:
            return found[0].detach().float().numpy()
        content = next(v for v in content.values() if isinstance(v, dict) and len(v) > 10)


def images(scripts: Path, work: Path, run: Path) -> Iterator[tuple[str, str]]:
    """Images of one face, taken as crops: the age, or the reason why there is none."""
    make(scripts / "c02_images.py", work, str(work))
    paths = sorted(work.iterdir())
    for photo in predict(run, [str(path) for path in paths], "crop"):
        estimate = photo.faces[0].estimate if photo.faces else None
        reason = photo.reason or (photo.faces[0].reason if photo.faces else "")
        yield Path(photo.path).name, reason if estimate is None else f"{estimate.age:.1f} years"


def tables(scripts: Path, work: Path) -> Iterator[tuple[str, str]]:
    """Tables and archives: how many rows they have, the mean age, people and splits, and what is said of them."""
    for script in ("c03_csv.py", "c04_archives.py", "c11_tables.py"):
        if script == "c11_tables.py":
            (work / "base").mkdir(exist_ok=True)
        make(scripts / script, work)
    kinds = {".csv", ".tsv", ".txt", ".lst"}
    for path in sorted(path for path in work.rglob("*") if path.suffix in kinds and path.is_file()):

        def load(path: Path = path) -> str:
            dataset = load_dataset(path, 32, cache=work.with_name("cache"))
            records = dataset.records
            people = len(set(records.identity.tolist()) - {""})
            splits = "/".join(str(len(records.rows_of(split))) for split in ("train", "validation", "test"))
            notes = " ".join(f"NOTE: {note}" for note in getattr(dataset, "notes", ()))
            return f"{len(records)} rows, mean age {records.age.mean():.1f}, {people} people, {splits} {notes}".strip()

        yield str(path.relative_to(work)), outcome(load)


def run_all(scripts: Path, work: Path, run: Path) -> dict[str, Outcomes]:
    """All outcomes, by family and input."""
    return {
        "checkpoints": dict(weights(scripts, work / "weights")),
        "images": dict(images(scripts, work / "images", run)),
        "tables and archives": dict(tables(scripts, work / "tables")),
    }


def table(before: dict[str, Outcomes], after: dict[str, Outcomes], home: str) -> str:
    """Both as Markdown, side by side; the working folder's name is left out."""
    lines = []
    for family, outcomes in after.items():
        lines += [f"## {family.capitalize()}: {len(outcomes)}", "", "| input | before | after |", "|---|---|---|"]
        for name, now in outcomes.items():
            cells = (name, before[family].get(name, ""), now)
            lines.append("| " + " | ".join(cell.replace("|", r"\|").replace(home, "") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "run":
        found = run_all(*(Path(argument).resolve() for argument in rest[:3]))
        Path(rest[3]).write_text(json.dumps({"work": rest[1], **found}, indent=1))
    else:
        earlier, later = (json.loads(Path(argument).read_text()) for argument in rest)
        home = later.pop("work")
        print(table(earlier, later, home))
