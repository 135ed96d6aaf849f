"""Commands whose disk is full: one line, nothing half-written, and what was done is kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jaxage.cli import main
from tests.disks import fill, grow, small_disk
from tests.faces import write_faces

pytestmark = pytest.mark.usefixtures("own_cache", "tiny")

_TRAIN = "train --arch tiny --trainable all --image-size 32 --weights random --epochs 2 --batch-size 16"


def refused(command: str) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    message = str(stop.value.code)
    assert "No space left on device: make room and start again" in message
    assert len(message.splitlines()) == 1
    return message


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "partial" in path.name or "orbax-checkpoint-tmp" in path.name]


def scores_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())["test"]


@pytest.mark.parametrize("moment", ["checkpoint", "results"])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, disk = write_faces(tmp_path / "data"), tmp_path / "disk"
    train = f"{_TRAIN} --data {table}"
    main([*train.split(), "--out", str(tmp_path / "whole")])
    with small_disk(disk, 600 if moment == "checkpoint" else 4000):
        with monkeypatch.context() as patch:
            if moment == "results":
                patch.setattr("jaxage.commands.train.try_framing", lambda dataset, log: fill(disk))
            message = refused(f"{train} --out {disk / 'run'}")
        assert str(disk / "run") in message
        assert ("checkpoints" in message) == (moment == "checkpoint")
        assert not leftovers(disk)
        assert not capsys.readouterr().err
        (disk / "ballast").unlink(missing_ok=True)
        grow(disk, 8000)
        main([*train.split(), "--out", str(disk / "run"), "--resume"])
        assert scores_of(disk / "run") == scores_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "command",
    [
        "prepare csv {table} --out {disk}/p --max-bad 1",
        "prepare synthetic --root {disk}/s --faces 200 --size 64",
        "lr-find {train} --data {table} --steps 10 --out {disk}/run",
    ],
)
def test_other_commands_on_a_full_disk(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, disk = write_faces(tmp_path / "data"), tmp_path / "disk"
    with small_disk(disk, 16):
        with pytest.raises(SystemExit) as stop:
            main(command.format(table=table, disk=disk, train=_TRAIN.removeprefix("train ")).split())
        message = str(stop.value.code)
        assert len(message.splitlines()) == 1, message
        assert str(disk) in message
        assert "No space left" in message
        assert not leftovers(disk)
        assert "Traceback" not in capsys.readouterr().err


def test_a_full_cache_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, disk = write_faces(tmp_path / "data"), tmp_path / "disk"
    monkeypatch.setenv("JAXAGE_CACHE", str(disk))
    with small_disk(disk, 64):
        with pytest.raises(SystemExit) as stop:
            main(f"{_TRAIN} --data {table} --out {tmp_path / 'run'}".split())
        assert "JAXAGE_CACHE" in str(stop.value.code)
        assert not leftovers(disk)
        assert not (tmp_path / "run").exists()
    shutil.rmtree(disk)
