"""Ten processes of one command that start at the same moment."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faces import write_faces

_TRAIN = "--arch tiny --trainable fc --image-size 32 --weights random --epochs 1 --batch-size 16 --cache-features off"
COMMANDS = {
    "train": f"train {_TRAIN} --data faces.csv --out new",
    "lr-find": f"lr-find {_TRAIN} --data faces.csv --out new --steps 10",
    "study": "study --data faces.csv --image-size 32 --epochs 1 --models tiny:fc --weights tiny=random --protocol best "
    "--seeds 1 --out new",
    "prepare": "prepare csv faces.csv --out new --max-bad 1",
    "prepare synthetic": "prepare synthetic --root new --faces 10 --size 32",
}


def _run(command: str, folder: Path, barrier: Any, queue: Any) -> None:
    os.chdir(folder)
    from tests.tiny_cli import main

    barrier.wait()
    try:
        main(command.split())
    except SystemExit as stop:
        queue.put(str(stop.code))
    else:
        queue.put("done")


def ten_at_once(command: str, folder: Path) -> list[str]:
    """How each of them ended: "done", or its message."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiny_cli"])
    queue, barrier = context.Queue(), context.Barrier(10)
    processes = [context.Process(target=_run, args=(command, folder, barrier, queue)) for _ in range(10)]
    for process in processes:
        process.start()
    ends = [queue.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return ends


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_faces(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_one_makes_the_folder_and_the_others_touch_nothing(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXAGE_CACHE", str(folder / "cache"))
    before = {path.name for path in folder.iterdir()}
    ends = ten_at_once(command, folder)
    assert ends.count("done") >= 1, ends
    assert all(end == "done" or "another process" in end or "is not an empty folder" in end for end in ends), ends
    assert {path.name for path in folder.iterdir()} - before - {"cache"} == {"new"}
    assert not [path for path in folder.rglob("*") if "partial" in path.name or "tmp" in path.name]
