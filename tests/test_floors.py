"""The house of jaxage: four floors of rooms in order; a file imports from a room to its left or below, never back."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxage

PACKAGE = Path(next(iter(jaxage.__path__)))

FLOORS = (
    ("types", "config", "utils", "losses", "metrics"),
    ("models", "data", "report"),
    ("pretrained", "photos", "training"),
    ("commands", "cli", "__init__"),
)
PLACE_OF = {room: place for place, room in enumerate(room for floor in FLOORS for room in floor)}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(source: str) -> set[str]:
    """The rooms of jaxage (`models`, `training`, ...) that a file imports from, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("jaxage.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down_or_left(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    climbing = {name for name in imported(file.read_text()) if PLACE_OF[name] > PLACE_OF[room]}
    assert not climbing, f"{file.name} in {room} imports from a room above or to its right: {climbing}"


def test_an_upward_import_is_seen() -> None:
    assert imported("def f():\n    from jaxage.cli import main\n") == {"cli"}
    assert imported("from jaxage.data import dataset") == {"data"}


def test_every_room_has_its_place() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__pycache__"} == set(PLACE_OF)


def test_no_module_is_named_like_a_public_name() -> None:
    """Importing `jaxage.x` would put the module in the place of the function `jaxage.x`. Files of `commands/` bear the
    names of the commands; nothing is exported from that package, so nothing can be hidden there.
    """
    places = [path.relative_to(PACKAGE).with_suffix("").parts for path in FILES]
    modules = {name for parts in places if parts[0] != "commands" for name in parts}
    assert not modules & set(jaxage.__all__)


def test_importing_jaxage_loads_nothing_heavy() -> None:
    code = "import sys, jaxage; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "jinja2", "tensorflow_datasets", "pooch", "requests", "jax"} & set(loaded)


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("flax.linen", {"models"}),
        ("orbax", {"training/checkpoint.py", "pretrained/flax_files.py"}),
        ("tyro", {"cli.py", "commands/arguments"}),
        ("matplotlib", {"report", "commands/study/plots.py"}),
        ("tensorflow_datasets", {"data/prepare/tfds_format.py"}),
        ("jinja2", {"commands/study/page.py"}),
        ("huggingface_hub", {"pretrained/hub.py"}),
        ("tensorboardX", {"report/event_file.py"}),
        (r"onnx\b", {"photos/detector.py", "commands/export"}),
        ("onnxruntime", {"photos/detector.py", "commands/export"}),
        ("(starlette|uvicorn)", {"commands/serve"}),
        ("timm", {"commands/export/torch_files.py"}),
    ],
)
def test_a_library_stays_in_its_place(library: str, owners: set[str]) -> None:
    users = [
        str(file.relative_to(PACKAGE))
        for file in FILES
        if re.search(rf'^ *(import|from) {library}|require\("{library}', file.read_text(), re.MULTILINE)
    ]
    assert all(any(user.startswith(owner) for owner in owners) for user in users)
    assert all(any(user.startswith(owner) for user in users) for owner in owners)


def test_inner_packages_are_empty() -> None:
    assert all(not file.read_text() for file in PACKAGE.rglob("*/__init__.py") if file.parent != PACKAGE)
