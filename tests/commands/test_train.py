"""Whole runs, from files on disk to the folder that a user looks at: one of a real network, others of a tiny one."""

import csv
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.stats import pearsonr, spearmanr

from jaxage.commands.evaluate import EvaluateOptions, evaluate
from jaxage.commands.frame import frame
from jaxage.commands.predict import predict
from jaxage.commands.push import pushed_files
from jaxage.commands.train import train
from jaxage.config import TrainConfig
from jaxage.data.importers.csv_file import CSV, CsvOptions
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepare.pipeline import prepare_dataset
from jaxage.report.hub_card import parse_license
from jaxage.training.export import load_model, write_model_config
from jaxage.types import UserError, WeightsUnavailableError
from jaxage.utils.trees import flatten
from tests.faces import write_faces

SMALL: dict[str, Any] = {
    "trainable": "fc",
    "weights": "random",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 12,
    "max_bad": 0.1,
    "learning_rate": 0.01,
}

TINY = SMALL | {"arch": "tiny"}

TRAIN = importlib.import_module("jaxage.commands.train")

Run = tuple[Path, dict[str, Any]]

pytestmark = pytest.mark.usefixtures("own_cache", "tiny")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = write_faces(tmp_path_factory.mktemp("data"))
    (table.parent / "faces" / "007.png").write_bytes(b"no image")
    return table


@pytest.fixture(scope="module")
def run(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    report = train(TrainConfig(data=faces, out=folder, **SMALL), log=lambda _: None)
    return folder, report


def predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_all_that_is_promised(run: Run) -> None:
    folder, report = run
    files = "config.json environment.json metrics.jsonl predictions.csv failures.csv report.json"
    files += " curves.png scatter.png intervals.png"
    for name in [*files.split(), "model/model.safetensors", "model/model.json", "model/README.md"]:
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "report.json").read_text()) == report
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    asked, resolved = (json.loads((folder / name).read_text()) for name in ("config.json", "resolved.json"))
    assert (asked["cache_features"], asked["dtype"], asked["loss"]) == ("auto", "auto", "dldl")
    assert resolved["cache_features"] in ("off", "disk", "device", "host")
    assert (resolved["dtype"], resolved["weights"]) == ("float32", "random")
    for name in ("curves.png", "scatter.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 400


def test_the_report_says_what_was_done(run: Run) -> None:
    _, report = run
    assert report["arch"] == "resnet18"
    assert not report["demonstration"]
    assert report["trainable"] == "fc"
    flags = "--trainable fc --image-size 32 --max-bad 0.1 --epochs 2 --batch-size 12 --learning-rate 0.01"
    assert report["settings"] == flags
    assert report["weights"] == {"tag": "random", "sha256": None}
    assert report["data"]["name"] == "faces"
    assert report["data"]["split"] == "random"
    counts = report["data"]["counts"]
    assert counts["failed"] == 1
    assert counts["train"] + counts["validation"] + counts["test"] == 59
    for split in ("validation", "test"):
        assert report[split]["n"] == counts[split]
        for name in ("plcc", "srocc", "mae", "rmse", "cs5"):
            low, high = report[split][f"{name}_ci95"]
            assert low <= report[split][name] <= high
    timing = dict(report["timing"])
    assert timing.pop("stream_images_per_s") is None
    assert set(timing) == {"total_s", "compile_s", "train_images_per_s"}
    assert all(value > 0 for value in timing.values())


def test_scipy_gets_the_same_from_the_predictions(run: Run) -> None:
    folder, report = run
    rows = predictions(folder)
    age, guess = ([float(row[name]) for row in rows] for name in ("age", "prediction"))
    assert report["test"]["plcc"] == pytest.approx(pearsonr(age, guess).statistic, abs=1e-5)
    assert report["test"]["srocc"] == pytest.approx(spearmanr(age, guess).statistic, abs=1e-5)
    assert report["test"]["mae"] == pytest.approx(np.abs(np.subtract(age, guess)).mean(), rel=1e-5)


def test_the_broken_image_is_listed_with_its_reason(run: Run) -> None:
    with (run[0] / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "faces/007.png"
    assert "image" in row["reason"]


def test_frozen_leaves_of_the_exported_model_are_those_it_started_from(run: Run) -> None:
    variables, contract = load_model(run[0])
    fresh = contract.model().init(jax.random.key(0))
    trained, start = flatten(variables), flatten(fresh)
    moved = {name for name in start if np.asarray(start[name]).tobytes() != trained[name].tobytes()}
    assert moved == {"params.fc.kernel", "params.fc.bias"}


def test_evaluating_a_run_repeats_its_test(run: Run, faces: Path) -> None:
    folder, report = run
    again = evaluate(folder)
    assert again["split"] == "test"
    assert again["n"] == report["test"]["n"]
    for name in ("plcc", "srocc", "mae", "rmse", "cs5", "plcc_ci95"):
        assert again[name] == pytest.approx(report["test"][name], rel=1e-5), name
    assert evaluate(folder, EvaluateOptions(faces, on="validation"))["mae"] == pytest.approx(
        report["validation"]["mae"], rel=1e-5
    )


def test_moved_data_are_known_by_their_content(run: Run, faces: Path, tmp_path: Path) -> None:
    folder, report = run
    moved = shutil.copytree(faces.parent, tmp_path / "moved") / "renamed.csv"
    (moved.parent / "faces.csv").rename(moved)
    scores = evaluate(folder, EvaluateOptions(moved))
    assert (scores["split"], scores["n"]) == ("test", report["test"]["n"])
    assert scores["mae"] == pytest.approx(report["test"]["mae"], rel=1e-5)
    config = json.loads((shutil.copytree(folder, tmp_path / "run") / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"data": str(tmp_path / "gone.csv")}))
    with pytest.raises(UserError, match=r"gone\.csv', the data of the run, is not there any more: name its new place"):
        evaluate(tmp_path / "run")
    assert evaluate(tmp_path / "run", EvaluateOptions(moved))["n"] == report["test"]["n"]
    said: list[str] = []
    moved.write_text("\n".join(moved.read_text().splitlines()[:-1]))
    assert evaluate(folder, EvaluateOptions(moved), said.append)["split"] == "all"
    trained = report["data"]["counts"]["train"]
    assert re.fullmatch(rf"note: the model was trained on ({trained}|{trained - 1}) of these 58 images", said[0])


def test_copies_on_both_sides_are_said(tmp_path: Path) -> None:
    table = write_faces(tmp_path / "data")
    rows = [row.split(",") for row in table.read_text().splitlines()[1:]]
    (tmp_path / "data" / "copy").mkdir()
    for path, _, _ in rows:
        shutil.copy(tmp_path / "data" / path, tmp_path / "data" / path.replace("faces/", "copy/"))
    lines = [f"{p},{a},train\n{p.replace('faces/', 'copy/')},{float(a) / 2},test" for p, a, _ in rows[:-10]]
    validation = [f"{p},{a},validation" for p, a, _ in rows[-10:]]
    table.write_text("\n".join(["path,age,split", *lines, *validation]) + "\n")
    said: list[str] = []
    report = train(TrainConfig(data=table, out=tmp_path / "run", **TINY), said.append)
    assert report["data"]["copies"] == {"in_train": 50, "other_age": 98}
    notes = [line for line in said if line.startswith("note: ")]
    assert notes[0] == "note: 50 of 50 test images have the bytes of a training image"
    assert notes[1] == "note: 98 images have a copy of another age; jaxage prepare drops copies"
    said.clear()
    evaluate(tmp_path / "run", log=said.append)
    assert said == notes


def test_a_run_says_how_sure_its_model_is(run: Run, faces: Path) -> None:
    folder, report = run
    sure, again = report["test"]["intervals"], evaluate(folder)["intervals"]
    assert (again["coverage"], again["covered"]) == (sure["coverage"], sure["covered"])
    assert again["width"] == pytest.approx(sure["width"], rel=1e-4)
    rows = [{name: float(row[name]) for name in ("age", "prediction", "low", "high")} for row in predictions(folder)]
    assert all(row["low"] <= row["prediction"] <= row["high"] for row in rows)
    assert np.mean([row["low"] <= row["age"] <= row["high"] for row in rows]) == pytest.approx(sure["covered"])
    assert np.mean([row["high"] - row["low"] for row in rows]) == pytest.approx(sure["width"], rel=1e-4)
    assert evaluate(folder, EvaluateOptions(coverage=0.5))["intervals"]["width"] < sure["width"]
    with pytest.raises(UserError, match=r"coverage must be one of 0\.5"):
        evaluate(folder, EvaluateOptions(faces.with_name("nowhere.csv"), coverage=0.999))


def test_an_older_run_gets_its_intervals_from_its_validation_split(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(run[0], tmp_path / "run")
    before = load_model(folder)[1]
    write_model_config(folder / "model", replace(before, intervals=None))
    assert evaluate(folder)["intervals"] is None
    monkeypatch.setattr("jaxage.commands.frame.framing_of", lambda *_: before.framing)
    frame(folder, lambda _: None)
    found, stored = load_model(folder)[1].intervals, before.intervals
    assert found is not None
    assert stored is not None
    assert found._replace(radii=()) == stored._replace(radii=())
    for row, expected in zip(found.radii, stored.radii, strict=True):
        assert row == pytest.approx(expected, abs=1e-3)


def test_other_data_is_scored_whole(run: Run, tmp_path: Path) -> None:
    scored = evaluate(run[0], EvaluateOptions(write_faces(tmp_path, n=40)))
    assert scored["split"] == "all"
    assert scored["n"] == 40
    assert scored["failed"] == 0


@pytest.mark.parametrize("split", ["", "test"])
def test_a_few_images_of_one_split_or_none_can_be_scored(run: Run, tmp_path: Path, split: str) -> None:
    table = write_faces(tmp_path, n=4)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    table.write_text("path,age,split\n" + "".join(f"{row['path']},{row['age']},{split}\n" for row in rows))
    (tmp_path / rows[0]["path"]).write_bytes(b"no image")
    with pytest.raises(UserError, match="max_bad"):
        evaluate(run[0], EvaluateOptions(table))
    scored = evaluate(run[0], EvaluateOptions(table, max_bad=0.3))
    assert (scored["n"], scored["failed"]) == (3, 1)
    with pytest.raises(UserError, match="no image in split train"):
        evaluate(run[0], EvaluateOptions(table, on="train", max_bad=0.3))


def test_people_seen_in_training_and_others_are_scored_apart(run: Run) -> None:
    folder, report = run
    test = report["test"]
    assert test["seen"]["n"] == report["data"]["leakage"]["test_images_seen"] > 0
    others = test["n"] - test["seen"]["n"]
    assert (test["unseen"]["n"] if test["unseen"] else 0) == others
    errors = np.abs([float(row["prediction"]) - float(row["age"]) for row in predictions(folder)])
    weighted = test["seen"]["mae"] * test["seen"]["n"] + (test["unseen"]["mae"] * others if others else 0)
    assert weighted / test["n"] == pytest.approx(errors.mean(), rel=1e-5)


def test_a_prepared_folder_trains_streams_and_is_scored(faces: Path, tmp_path: Path) -> None:
    options = PrepareOptions(tmp_path / "prepared", "identity", seed=3, max_bad=0.1)
    prepared = prepare_dataset(CSV, CsvOptions(faces), options, log=lambda _: None)
    said: list[str] = []
    config = TrainConfig(data=prepared, out=tmp_path / "run", memory_budget=0.0, **(TINY | {"epochs": 1}))
    report = train(config, log=said.append)
    assert (report["data"]["name"], report["data"]["split"]) == ("faces", "identity")
    assert report["data"]["leakage"]["seen_share"] == 0
    assert (report["test"]["seen"], report["test"]["unseen"]["n"]) == (None, report["test"]["n"])
    assert report["timing"]["stream_images_per_s"] > 0
    assert any("streamed, up to" in line for line in said)
    expected = pytest.approx(report["test"]["mae"], rel=1e-5)
    assert evaluate(tmp_path / "run")["mae"] == expected
    assert evaluate(tmp_path / "run", EvaluateOptions(prepared))["mae"] == expected
    shutil.rmtree(prepared)
    prepare_dataset(CSV, CsvOptions(faces), replace(options, seed=4), log=lambda _: None)
    with pytest.raises(UserError, match="its data have changed"):
        evaluate(tmp_path / "run")


def test_features_from_memory_teach_the_same(faces: Path, tmp_path: Path) -> None:
    for place in ("device", "host"):
        train(TrainConfig(data=faces, out=tmp_path / place, cache_features=place, **TINY), log=lambda _: None)
    found = [[float(row["prediction"]) for row in predictions(tmp_path / place)] for place in ("device", "host")]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_a_head_in_closed_form(faces: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = TrainConfig(data=faces, out=tmp_path / "run", **(TINY | {"solver": "ridge", "loss": "mse"}))
    report = train(config, log=said.append)
    assert any("29 strengths" in line for line in said)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 29
    best = min(line["validation"]["mae"] for line in lines)
    assert report["validation"]["mae"] == pytest.approx(best, rel=1e-5)
    chosen = lines[report["best_epoch"] - 1]
    assert report["validation"]["mae"] == pytest.approx(chosen["validation"]["mae"], rel=1e-5)
    assert evaluate(tmp_path / "run")["mae"] == pytest.approx(report["test"]["mae"], rel=1e-5)
    assert not (tmp_path / "run" / "curves.png").exists()


@pytest.mark.parametrize("setting", [{"loss": "dldl"}, {"trainable": "fc,layer4"}, {"cache_features": "off"}])
def test_what_has_no_closed_form_is_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    settings = TINY | {"solver": "ridge", "loss": "mse"} | setting
    with pytest.raises(UserError, match="--solver ridge fits a head of one output"):
        train(TrainConfig(out=tmp_path / "run", **settings), log=lambda _: None)


def test_other_data_do_not_resume_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_faces(tmp_path / "data")
    config = TrainConfig(data=table, out=tmp_path / "run", resume=True, **TINY)
    with monkeypatch.context() as patch:
        patch.setattr(TRAIN, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, log=lambda _: None)
    moved = (tmp_path / "data").rename(tmp_path / "moved") / "faces.csv"
    with monkeypatch.context() as patch:
        patch.setattr(TRAIN, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):  # it goes on where the data lie now
            train(replace(config, data=moved), log=lambda _: None)
    moved.write_text("\n".join(moved.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match="its data have changed"):
        train(replace(config, data=moved), log=lambda _: None)


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_frozen_new_head_and_a_constant_age_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add fc"):
        train(TrainConfig(out=tmp_path / "run", **(TINY | {"trainable": "layer4"})), log=lambda _: None)
    table = write_faces(tmp_path / "data")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    table.write_text("path,age\n" + "".join(f"{row['path']},30\n" for row in rows))
    with pytest.raises(UserError, match=r"every age .* is 30"):
        train(TrainConfig(data=table, out=tmp_path / "run", **TINY), log=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_predicting_files_gives_the_predictions_of_the_test(run: Run, faces: Path) -> None:
    rows = predictions(run[0])[:5]
    photos = predict(run[0], [faces.parent / row["path"] for row in rows], "crop")
    ages = [photo.faces[0].estimate.age for photo in photos]
    np.testing.assert_allclose(ages, [float(row["prediction"]) for row in rows], atol=1e-3)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.json"):
        predict(tmp_path, [], "crop")


def test_a_finished_run_is_not_run_again(run: Run, faces: Path) -> None:
    folder, report = run
    before = (folder / "report.json").stat().st_mtime_ns
    said: list[str] = []
    again = train(TrainConfig(out=folder, resume=True), log=said.append)
    assert again == report
    assert "finished" in said[0]
    assert (folder / "report.json").stat().st_mtime_ns == before


def test_weights_that_cannot_be_had_stop_a_real_run(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("jaxage.training.setup"), "find_weights", unavailable)
    with pytest.raises(WeightsUnavailableError):
        train(TrainConfig(data=faces, out=tmp_path / "run", **(SMALL | {"weights": "imagenet1k_v1"})), log=print)


def test_the_demonstration_goes_on_without_weights_under_a_banner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("jaxage.training.setup"), "find_weights", unavailable)
    monkeypatch.setattr("jaxage.data.load.DEMO_FACES", 60)
    said: list[str] = []
    config = TrainConfig(out=tmp_path / "run", **(SMALL | {"weights": "imagenet1k_v1", "epochs": 1}))
    report = train(config, log=said.append)
    assert report["weights"]["tag"] == "random"
    assert report["data"]["name"] == "synthetic"
    assert report["demonstration"]
    assert json.loads((tmp_path / "run" / "resolved.json").read_text())["weights"] == "random"
    with Image.open(tmp_path / "run" / "faces.png") as sheet:
        assert min(sheet.size) > 200
    (banner,) = [line for line in said if "DEMONSTRATION" in line]
    assert "random" in banner
    assert len({len(line) for line in banner.splitlines()}) == 1


@pytest.mark.parametrize(
    ("setting", "word"),
    [({"trainable": "fc,layr4"}, "layr4"), ({"trainable": "all", "cache_features": "host"}, "there are none")],
)
def test_a_typo_is_refused_before_anything_is_read_or_fetched(
    setting: dict[str, Any], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TRAIN, "load_data", lambda *_: pytest.fail("read"))
    with pytest.raises(UserError, match=word):
        train(TrainConfig(out=tmp_path / "run", **(TINY | setting)), log=lambda _: None)
    assert not (tmp_path / "run").exists()


def unavailable(*_: Any) -> None:
    raise WeightsUnavailableError("no network; put the file somewhere, or --weights random")


def start(faces: Path, out: Path) -> "subprocess.Popen[str]":
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | {"epochs": 20}).items()]
    command = [sys.executable, "-m", "tests.tiny_cli", "train", f"--data={faces}", f"--out={out}", "--resume", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def finish(faces: Path, out: Path) -> dict[str, Any]:
    process = start(faces, out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_killed_at_random_moments_and_resumed_equals_not_killed(faces: Path, tmp_path: Path) -> None:
    """SIGKILL in three rounds: before the first checkpoint can be whole, then at random after one and after two."""
    whole = finish(faces, tmp_path / "whole")
    chance = random.Random(int(time.time()))
    steps_left = []
    for epochs in range(3):
        process = start(faces, tmp_path / "killed")
        wait_for_epochs(tmp_path / "killed", epochs, process)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        steps_left.append(len(list((tmp_path / "killed" / "checkpoints").glob("[0-9]*"))))
    assert steps_left[-1] > 0
    report = finish(faces, tmp_path / "killed")
    for part in ("validation", "test", "settings"):
        assert report[part] == whole[part]
    assert (tmp_path / "killed" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert predictions(tmp_path / "killed") == predictions(tmp_path / "whole")


def wait_for_epochs(out: Path, epochs: int, process: "subprocess.Popen[str]") -> None:
    """Until that many epochs have been written down."""
    deadline = time.time() + 120
    while process.poll() is None and time.time() < deadline:
        metrics = out / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= epochs:
            return
        time.sleep(0.005)
    pytest.fail(f"{out} did not come to epoch {epochs}")


def test_what_push_would_upload_says_nothing_of_this_machine(run: Run, faces: Path) -> None:
    pytest.importorskip("huggingface_hub")
    files = pushed_files(run[0], "owner/name", parse_license("mit"))
    everything = b"".join(each if isinstance(each, bytes) else each.read_bytes() for each in files.values())
    assert b"Trained by jaxage on faces" in everything
    for place in (run[0], faces.parent, Path.home(), Path.cwd()):
        assert str(place).encode() not in everything
