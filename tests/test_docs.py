"""README and docs say what is true: commands and snippets run, options, links, extras and messages exist."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

import jaxage
from jaxage.cli import COMMANDS, main
from jaxage.config import TrainConfig
from jaxage.models.registry import MODELS
from tests.faces import write_faces
from tests.photos.pictures import drawn_faces
from tests.tiny import NARROW_RESNET

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SMALL = {
    "train": ["--weights", "random", "--epochs", "1", "--batch-size", "16"],
    "lr-find": ["--weights", "random", "--steps", "20"],
    "study": shlex.split("--weights resnet18=random --epochs 1 --models resnet18:fc --protocol best --seeds 1"),
}
"""What is added to a command, so that it takes seconds."""
SCRIPTS = {"train.py": "train", "evaluate.py": "evaluate", "predict.py": "predict"}


class Block(NamedTuple):
    kind: str
    text: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"(?m)^(<!-- not run: .+ -->\n)?```(\w+)\n([\s\S]*?)^```$", page.read_text())
    return [Block(kind, text, not mark) for mark, kind, text in found]


def commands(block: Block) -> list[str]:
    """Its lines, without pip."""
    lines = [part.strip() for line in block.text.splitlines() for part in line.partition("  #")[0].split("&&")]
    return [line for line in lines if line and not line.startswith(("pip ", "#"))]


def shells(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.kind == "sh"]


def of_jaxage(command: str) -> list[str] | None:
    """The arguments of `jaxage` or of one of its scripts, or None for another program."""
    words = shlex.split(command.rpartition("| ")[2])
    if words[:1] == ["python"] and words[1].startswith("scripts/") and words[1][8:] in SCRIPTS:
        return [SCRIPTS[words[1][8:]], *words[2:]]
    return words[words.index("jaxage") + 1 :] if "jaxage" in words else None


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: tables, photos, and a finished run."""
    folder = tmp_path_factory.mktemp("docs")
    write_faces(folder)
    others = write_faces(folder / "others", seed=4).read_text().replace("faces/", "others/faces/")
    for name in ("mine", "other"):
        (folder / f"{name}.csv").write_text(others)
    (folder / "album").mkdir()
    ground = np.random.default_rng(0).integers(90, 160, (9, 3))
    for i, face in enumerate(drawn_faces(9, 128)):
        photo = Image.new("RGB", (400, 300), tuple(ground[i].tolist()))
        photo.paste(Image.fromarray(face), (100, 80))
        photo.save(folder / "album" / f"{i:02}.jpg")
    rows = [f"album/{i:02}.jpg,{20 + i},{('train', 'validation', 'test')[i % 3]}\n" for i in range(9)]
    (folder / "photos.csv").write_text("path,age,split\n" + "".join(rows))
    for name in ("photo", "face"):
        shutil.copy(folder / "album" / "00.jpg", folder / f"{name}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["train", "--data", "faces.csv", "--trainable", "fc,layer4", "--out", "RUN", *SMALL["train"]])
    return folder


@pytest.fixture(scope="module", autouse=True)
def small(own_cache: None) -> None:
    """Narrow networks with random weights on small images."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("resnet18", "mobilenet_v2"):
            patch.setitem(MODELS, name, NARROW_RESNET)
        patch.setattr("jaxage.data.load.DEMO_FACES", 60)
        patch.setattr("jaxage.data.load.REAL_SIZE", 48)
        yield


@pytest.mark.filterwarnings("ignore:all rows are of one person")
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.runs for b in shells(page))], ids=lambda p: p.name)
def test_commands_run(page: Path, work: Path, network: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    ran, trained = 0, False  # a page trains once, and checks the settings of its other trainings
    for command in [line for block in shells(page) if block.runs for line in commands(block)]:
        words = of_jaxage(command)
        if words is None:
            assert command.startswith("python -m pytest"), f"mark what does not run: {command}"
            continue
        if "|" in command:
            given = subprocess.run(["bash", "-c", command.partition("|")[0]], capture_output=True, check=True)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.stdout)))
        trains_again = words[0] == "train" and trained and "--out" not in words
        main([*words, *SMALL.get(words[0], []), *["--dry-run"] * trains_again])
        ran += 1
        trained |= words[0] == "train"
    assert ran


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.kind == "python" and b.runs for b in blocks(page))], ids=lambda p: p.name
)
def test_snippets_run(page: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if "faces-prepared" in page.read_text():
        main(["prepare", "csv", "faces.csv"])
    with ExitStack() as stack:
        for table in (jaxage.MODELS, jaxage.LOSSES, jaxage.METRICS, jaxage.IMPORTERS):
            stack.enter_context(mock.patch.dict(table))
        text = "".join(block.text for block in blocks(page) if block.kind == "python" and block.runs)
        exec(compile(text.replace('"imagenet1k_v1"', '"random"'), page.name, "exec"), {})


def settings(**values: Any) -> TrainConfig:
    return TrainConfig(**values | {"weights": "random", "epochs": 1, "batch_size": 16})


@pytest.mark.parametrize("name", ["finetune_csv", "custom_loop", "own_network", "own_metric", "photos_to_csv"])
def test_examples_run(
    name: str,
    work: Path,
    network: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(jaxage), "TrainConfig", settings)
    example = import_module(f"examples.{name}")
    if name == "custom_loop":
        monkeypatch.setattr(example, "FACES", 128)
    arguments = {"finetune_csv": [tmp_path / "faces.csv"], "photos_to_csv": ["RUN", "album"]}
    with ExitStack() as stack:
        for table in (jaxage.MODELS, jaxage.LOSSES, jaxage.METRICS):
            stack.enter_context(mock.patch.dict(table))
        example.main(*arguments.get(name, []))
    said = {
        "finetune_csv": "95 % interval",
        "custom_loop": "MAE",
        "own_metric": "MedAE",
        "photos_to_csv": "album/08.jpg",
    }
    assert said.get(name, "model: runs/small") in capsys.readouterr().out


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(jaxage), "TrainConfig", settings)
    cells = json.loads((ROOT / "examples" / "unfreezing.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    exec(compile(code, "unfreezing.ipynb", "exec"), {})
    assert len(list((tmp_path / "unfreezing" / "maps").iterdir())) == 3
    pyplot.close("all")


@pytest.mark.parametrize(
    "name", sorted(COMMANDS.keys() - {"launch"})
)  # whose options are those of the command it starts
def test_options_of_every_command_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of commands that do not run here too."""
    lines = [line for page in PAGES for block in shells(page) for line in commands(block)]
    words = [words for line in lines if (words := of_jaxage(line)) and words[0] == name]
    named = {word for line in words for word in line if word.startswith("--")}
    with pytest.raises(SystemExit):
        main([name, *["imdb-crop"] * (name == "prepare"), "--help"])
    assert named <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


def test_extras_and_messages_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for page in PAGES for extra in re.findall(r'"\.\[(\w+)\]"', page.read_text())}
    assert named <= extras.keys()
    source = "".join(path.read_text() for path in (ROOT / "jaxage").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    rows = re.findall(r"(?m)^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text())
    assert len(rows) > 15
    assert not [message for message in rows if message not in source]


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1100
    assert len(text.splitlines()) <= 130
