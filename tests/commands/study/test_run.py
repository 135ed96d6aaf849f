"""Whole studies, of a tiny network on drawn faces."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxage.commands.study.run import StudyConfig, plan_runs, study, train_config
from jaxage.training.run_folder import RunError, read_config
from jaxage.types import Diverged, UserError
from jaxage.utils.files import lock_folder
from tests.faces import write_faces

MODELS = ("tiny:fc",)

pytestmark = pytest.mark.usefixtures("own_cache", "tiny")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data"), n=120)


def small(faces: Path, out: Path, **changes: Any) -> StudyConfig:
    config = StudyConfig(data=faces, out=out, models=MODELS, seeds=1, weights=("tiny=random",), image_size=32, epochs=1)
    return replace(config, **changes)


@pytest.fixture(scope="module")
def done(tiny: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out, said = tmp_path_factory.mktemp("studies") / "study", []
    study(small(faces, out), said.append)
    return out, said


def test_a_study_leaves_its_page_and_its_runs(done: tuple[Path, list[str]]) -> None:
    out, said = done
    for name in ("study.html", "study.md", "study.csv", "study.json"):
        assert (out / name).stat().st_size > 500
    summary = json.loads((out / "study.json").read_text())
    assert [(model["protocol"], model["name"]) for model in summary["models"]] == [
        (protocol, name) for protocol in ("report", "best") for name in MODELS
    ]
    for protocol, rule, frozen_bn in (("report", "random", "train"), ("best", "identity", "eval")):
        folder = out / "runs" / protocol / "tiny-fc" / "seed-0"
        config = read_config(folder)
        assert (config.split, config.frozen_bn, config.split_seed) == (rule, frozen_bn, 0)
        report = json.loads((folder / "report.json").read_text())
        model = next(m for m in summary["models"] if (m["protocol"], m["name"]) == (protocol, MODELS[0]))
        assert model["scores"]["mae"]["seeds"] == [report["test"]["mae"]]
    assert not summary["same_test"]
    assert summary["gains"] == []
    assert any("runs left: 1, about 0 h" in line for line in said)
    assert any("all runs are done" in line for line in said)


def test_only_what_is_missing_is_done(done: tuple[Path, list[str]], faces: Path, tmp_path: Path) -> None:
    """A run without a report is done again, the others stay; another seed is added to what is there."""
    out = tmp_path / "study"
    shutil.copytree(done[0], out)
    folders = [path.parent for path in out.glob("runs/*/*/seed-0/report.json")]
    times = {path: (path / "report.json").stat().st_mtime_ns for path in folders}
    assert len(folders) == 2
    shutil.rmtree(folders[0])
    before = json.loads((out / "study.json").read_text())
    said: list[str] = []
    after = study(small(faces, out), said.append)
    assert sum(line.startswith("\n== run") for line in said) == 1
    assert all((path / "report.json").stat().st_mtime_ns == times[path] for path in folders[1:])
    assert [model["scores"] for model in after["models"]] == [model["scores"] for model in before["models"]]
    more = study(small(faces, out, seeds=2, protocol="best"), said.append)
    assert [model["seeds"] for model in more["models"]] == [[0, 1]]


def test_another_study_does_not_go_on_in_a_folder(done: tuple[Path, list[str]], faces: Path) -> None:
    with pytest.raises(RunError, match=r"holds a study with --image-size 32, not 48"):
        study(small(faces, done[0], image_size=48), lambda _: None)
    with pytest.raises(RunError, match=r"holds a study with --weights .*random.*, not \{\}"):
        study(small(faces, done[0], weights=()), lambda _: None)


def test_weights_of_a_further_network_can_be_added(done: tuple[Path, list[str]], faces: Path, tmp_path: Path) -> None:
    out, weights = tmp_path / "study", ("tiny=random", "mobilenet_v2=random")
    shutil.copytree(done[0], out)
    study(small(faces, out, weights=weights), lambda _: None)
    with pytest.raises(RunError, match=r"holds a study with --weights"):
        study(small(faces, out), lambda _: None)


def test_a_run_that_diverges_is_left_out(
    done: tuple[Path, list[str]], faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("jaxage.commands.study.shared_runs")
    real = module.train

    def failing(config: Any, log: Any) -> Any:
        if config.frozen_bn == "train":
            raise Diverged("the loss was no finite number at step 3; there is no checkpoint yet")
        return real(config, log)

    monkeypatch.setattr(module, "train", failing)
    shutil.copytree(done[0], tmp_path / "study")
    summary = study(small(faces, tmp_path / "study"), lambda _: None)
    assert [model["protocol"] for model in summary["models"]] == ["best"]
    reason = "the loss was no finite number at step 3"
    assert summary["failed"] == [{"run": "report, tiny:fc, seed 0", "reason": reason}]
    assert reason in (tmp_path / "study" / "study.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, r"--seeds must be 1 or more, got 0"),
        ({"models": ("tiny:fc", "tiny:fc")}, r"each only once; twice: tiny:fc"),
        ({"models": ("resnet18",)}, r"'resnet18' is not a model"),
        ({"weights": ("vgg16=random",)}, r"write NETWORK=WEIGHTS; networks are .*resnet18"),
        ({"weights": ("random",)}, r"write NETWORK=WEIGHTS"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    changes: dict[str, Any], message: str, faces: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        study(small(faces, tmp_path / "study", **changes), lambda _: None)
    assert not (tmp_path / "study").exists()


def test_a_mistake_leaves_no_trace_and_is_found_before_the_first_run(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    mistakes = {"models": ("tiny:fc", "tiny:fc,layr4"), "data": tmp_path / "facs.csv", "batch_size": 0}
    mistakes |= {"weights": ("tiny=nowhere.pth",)}
    for name, value in mistakes.items():
        with pytest.raises(UserError):
            study(small(faces, out, **{name: value}), lambda _: None)
        assert not out.exists()


def test_a_wrong_layer_is_named_with_its_model_before_faces_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxage.commands.study.run.load_data", lambda *_: pytest.fail("drawn"))
    with pytest.raises(UserError, match=r"^tiny:fc,layr4: .*layr4"):
        study(StudyConfig(out=tmp_path / "study", models=("tiny:fc,layr4",)), lambda _: None)


def test_runs_of_data_that_changed_since_are_not_mixed(
    done: tuple[Path, list[str]], faces: Path, tmp_path: Path
) -> None:
    shutil.copytree(done[0], tmp_path / "study")
    text = faces.read_text()
    path, _, identity = text.splitlines()[1].split(",")
    try:
        faces.write_text(text.replace(text.splitlines()[1], f"{path},99,{identity}"))
        with pytest.raises(RunError, match="holds a study of other data: bring them back"):
            study(small(faces, tmp_path / "study"), lambda _: None)
    finally:
        faces.write_text(text)


def test_a_run_in_use_is_left_to_its_process_and_taken_over_if_that_is_lost(
    done: tuple[Path, list[str]], faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("jaxage.commands.study.shared_runs"), "_POLL_S", 0.1)
    out = tmp_path / "study"
    shutil.copytree(done[0], out)
    folder = out / "runs" / "best" / "tiny-fc" / "seed-0"
    (folder / "report.json").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    said = list[str]()
    with ThreadPoolExecutor(1) as pool:
        with lock_folder(folder, RunError()):
            ended = pool.submit(study, small(faces, out), said.append)
            while "waiting for them" not in "".join(said):
                time.sleep(0.05)
            time.sleep(0.3)
            assert {path: path.read_bytes() for path in before} == before
        assert len(ended.result()["models"]) == 2
    assert said[0] == "runs trained by other processes: 1, waiting for them"
    assert "run 2 of 2" in said[1]
    assert (folder / "report.json").exists()


def test_two_studies_at_once_write_one_page_after_the_other(
    done: tuple[Path, list[str]], faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one would remove the other's pictures before they are on its page. Together again, they are one study."""
    out = tmp_path / "study"
    shutil.copytree(done[0], out)
    (out / "study-settings.json").unlink()
    writing, most = list[str](), list[int]()

    def write_slowly(*_: Any, **__: Any) -> None:
        writing.append("page")
        time.sleep(0.3)
        most.append(len(writing))
        writing.pop()

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(importlib.import_module("jaxage.commands.study.run"), "write_study", write_slowly)
        both = [pool.submit(study, small(faces, out, protocol=each), lambda _: None) for each in ("report", "best")]
        summaries = [each.result() for each in both]
    assert most == [1, 1]
    assert [model["protocol"] for summary in summaries for model in summary["models"]] == ["report", "best"]
    assert len(study(small(faces, out), lambda _: None)["models"]) == 2


def test_nothing_to_compare_is_said(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise Diverged("the loss was no finite number at step 3; there is no checkpoint yet")

    monkeypatch.setattr(importlib.import_module("jaxage.commands.study.shared_runs"), "train", failing)
    with pytest.raises(UserError, match=r"all runs failed \(best, tiny:fc, seed 0: the loss was no finite"):
        study(small(faces, tmp_path / "study", protocol="best"), lambda _: None)


def test_every_model_is_tried_before_any_is_repeated(tmp_path: Path) -> None:
    plan = plan_runs(StudyConfig(out=tmp_path, seeds=2))
    assert len(plan) == 2 * 2 * 7 == len({run.folder for run in plan})
    assert [run.seed for run in plan] == [0] * 14 + [1] * 14
    configs = [train_config(StudyConfig(out=tmp_path), run, "random") for run in plan]
    assert {config.split_seed for config in configs} == {0}
    assert {config.seed for config in configs} == {0, 1}


def test_killed_and_begun_again_it_goes_on(done: tuple[Path, list[str]], faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    options = ["--data", str(faces), "--out", str(out), "--models", *MODELS, "--seeds", "1", "--image-size", "32"]
    options += ["--epochs", "1", "--weights", "tiny=random"]
    command = [sys.executable, "-m", "tests.tiny_cli", "study", *options]
    here = os.environ | {"JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    with subprocess.Popen(command, env=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(out.glob("runs/*/*/*/report.json")):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "study.html").exists()
    study(small(faces, out), lambda _: None)
    new, old = (json.loads((folder / "study.json").read_text())["models"] for folder in (out, done[0]))
    assert [model["scores"] for model in new] == [model["scores"] for model in old]
