"""The house of jaxage: a file imports from its own floor or from below, never from above."""

import ast
from pathlib import Path

import pytest

import jaxage

PACKAGE = Path(next(iter(jaxage.__path__)))

FLOORS = [
    {"config", "types", "locks", "runtime", "rivals", "profiler"},
    {"metrics", "losses", "trees", "models", "data", "order", "recipes"},
    {"pretrained", "freeze", "phases"},
    {"optim", "sources"},
    {"state", "steps", "mesh", "checkpoint", "run", "export", "feed", "features", "placement"},
    {"learning", "assemble", "solve", "fit", "start", "evaluate", "predict", "load", "prepare", "report"}
    | {"outcomes"},
    {"train", "convert", "explain", "lr_find"},
    {"benchmark", "contestants", "launch", "study", "cli", "__init__"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(source: str) -> set[str]:
    """The parts of jaxage (`models`, `freeze`, ...) that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("jaxage.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downwards(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    climbing = {name for name in imported(file.read_text()) if FLOOR_OF[name] > FLOOR_OF[part]}
    assert not climbing, f"{file.name} (floor {FLOOR_OF[part]}) imports from above: {climbing}"


def test_an_upward_import_is_seen() -> None:
    assert imported("def f():\n    from jaxage.cli import main\n") == {"cli"}
    assert imported("from jaxage.data import store") == {"data"}


@pytest.mark.parametrize(
    ("library", "owners"),
    [("flax.linen", {"models"}), ("orbax", {"checkpoint"}), ("tyro", {"cli"}), ("matplotlib", {"report"})],
)
def test_a_library_stays_in_its_place(library: str, owners: set[str]) -> None:
    users = {
        file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for file in FILES
        if any(line.split()[:2][-1:] and line.split()[1].startswith(library) for line in import_lines(file))
    }
    assert users == owners


def import_lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]


def test_inner_packages_are_empty() -> None:
    assert all(not file.read_text() for file in PACKAGE.glob("*/__init__.py"))
