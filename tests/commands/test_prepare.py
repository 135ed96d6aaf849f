"""The prepare commands: their pictures, their help, and many processes at once."""

import json
import multiprocessing
import os
import shutil
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from PIL import Image

from jaxage.cli import main
from jaxage.commands.prepare import prepare_synthetic
from jaxage.data.importers.table import IMPORTERS
from jaxage.data.prepared import open_prepared
from tests.faces import write_faces

PROCESSES = 10


def test_pictures_lie_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_faces(tmp_path, n=12)
    main(["prepare", "csv", str(table)])
    assert f"go on with: jaxage train --data {tmp_path / 'faces-prepared'}" in capsys.readouterr().out
    for name in ("ages.png", "sample.png"):
        with Image.open(tmp_path / "faces-prepared" / name) as picture:
            assert min(picture.size) > 200


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imdb-crop", ["The IMDb half", "--root PATH", "--min-face-score", "--metadata-only", "--split-ratios"]),
        ("wiki-crop", ["The Wikipedia half", "--root PATH", "--fraction"]),
        ("csv", ["Faces of your own", "FILE", "Columns path, age", "--max-bad"]),
    ],
)
def test_the_help_is_the_entry_of_the_table(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert name in IMPORTERS
    with pytest.raises(SystemExit) as stop:
        main(["prepare", name, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for word in words:
        assert word in said


def test_drawing_harms_nothing_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "imdb.mat").write_text("mine")
    for root in (tmp_path, tmp_path / "imdb.mat"):
        with pytest.raises(SystemExit, match="not an empty folder"):
            main(["prepare", "synthetic", "--root", str(root), "--faces", "4"])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_drawing_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(root: Path, *_: int) -> None:
        (root / "00").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxage.commands.prepare.write_synthetic", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_synthetic(tmp_path / "drawn", 4, 32, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_real_wiki(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with wiki.mat")
    mat = Path(os.environ["JAXAGE_TEST_DATA"], "wiki.mat")
    options = ["--out", str(tmp_path / "out"), "--fraction", "1", "--min-face-score", "1", "--metadata-only"]
    main(["prepare", "wiki-crop", "--root", str(mat), *options])
    assert "38,874" in capsys.readouterr().out
    funnel = json.loads((tmp_path / "out" / "manifest.json").read_text())["funnel"]
    assert [step["kept"] for step in funnel] == [62328, 44312, 40216, 38923, 38874, 38874]


def _run(commands: list[list[str]], start: Barrier, answers: "multiprocessing.Queue[tuple[int, str]]") -> None:
    """Run every command at the same moment as the other processes do."""
    for number, command in enumerate(commands):
        start.wait(60)
        try:
            main(command)
        except SystemExit as stop:
            answers.put((number, str(stop.code)))
        else:
            answers.put((number, "done"))


def test_many_processes_at_once(tmp_path: Path) -> None:
    """One does the work; the others are refused with a sentence, or find it done. Nothing is lost or left behind."""
    table = write_faces(tmp_path / "csv", n=30)
    prepare_synthetic(tmp_path / "tree", 30, 40, 0)
    drawn, crops, packed = tmp_path / "drawn", tmp_path / "crops", tmp_path / "packed"
    commands = [
        ["prepare", "synthetic", f"--root={drawn}", "--faces=30", "--size=40"],
        ["prepare", "imdb-crop", f"--root={tmp_path / 'tree'}", f"--out={crops}", "--fraction=1"],
        ["prepare", "csv", str(table), f"--out={packed}"],
    ]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jaxage.cli", "tests.commands.test_prepare"])
    answers: multiprocessing.Queue[tuple[int, str]] = context.Queue()
    start = context.Barrier(PROCESSES)
    processes = [context.Process(target=_run, args=(commands, start, answers)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    said = Counter(answers.get(timeout=120) for _ in range(PROCESSES * len(commands)))
    for process in processes:
        process.join()
    for number, out in enumerate((drawn, crops, packed)):
        allowed = {
            "done",
            f"error: {out} is being made by another process: wait for it, or choose another folder",
            *({f"error: {out} is not an empty folder: choose another one"} if out == drawn else ()),
        }
        assert {answer for which, answer in said if which == number} <= allowed
        assert said[number, "done"] == 1 if out == drawn else said[number, "done"] >= 1
    assert {path.name for path in tmp_path.iterdir()} == {"csv", "tree", "drawn", "crops", "packed"}
    assert contents(drawn) == contents(tmp_path / "tree")
    for out, command in ((crops, commands[1]), (packed, commands[2])):
        assert len(open_prepared(out).records) == 30
        before = contents(out)
        shutil.rmtree(out)
        main(command)
        assert contents(out) == before


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".mat"}
