import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxage.commands.frame import frame, framing_of
from jaxage.commands.photo_rows import photo_json, photo_writer, screen_lines
from jaxage.commands.predict import Face, Photo, predict
from jaxage.commands.train import train
from jaxage.config import TrainConfig
from jaxage.data.dataset import load_dataset
from jaxage.training.export import load_model, write_model_config
from jaxage.training.predictor import Estimate
from jaxage.types import Framing, UserError
from tests.faces import write_faces

pytestmark = pytest.mark.usefixtures("own_cache", "tiny", "network")


def test_every_photo_has_its_faces_or_a_reason(photo_model: Path, photos: Path) -> None:
    group, broken, crop, white = predict(photo_model, [photos], batch_size=2)
    assert [len(group.faces), len(broken.faces), len(crop.faces), len(white.faces)] == [3, 0, 1, 0]
    assert broken.reason.startswith("truncated or corrupt")
    assert white.reason == "no face found"
    assert [photo.failed for photo in (group, broken, crop, white)] == [False, True, False, True]
    for face in group.faces + crop.faces:
        assert face.estimate is not None
        assert face.estimate.low <= face.estimate.age <= face.estimate.high
        assert sum(face.estimate.probabilities) == pytest.approx(1, abs=1e-4)
        years = np.arange(101) @ np.array(face.estimate.probabilities)
        assert face.estimate.age == pytest.approx(years, abs=1e-3)
    (whole,) = predict(photo_model, [photos / "crop.png"], "crop")
    assert whole.faces[0].estimate.age == pytest.approx(crop.faces[0].estimate.age, abs=1e-4)
    narrow = [photo.faces[0].estimate for photo in predict(photo_model, [photos / "crop.png"], coverage=0.5)]
    assert narrow[0].high - narrow[0].low < crop.faces[0].estimate.high - crop.faces[0].estimate.low


def test_what_is_asked_wrong_is_named(photo_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.json"):
        predict(tmp_path, ["a.jpg"])
    with pytest.raises(UserError, match="no images"):
        predict(photo_model, [])
    with pytest.raises(UserError, match="coverage must be one of"):
        predict(photo_model, ["a.jpg"], coverage=0.999)
    with pytest.raises(UserError, match=r"ends in \.csv or \.jsonl"), photo_writer(tmp_path / "ages.xlsx"):
        pass


def test_rows_say_all_of_a_photo(tmp_path: Path) -> None:
    sure = Estimate(31.25, 20.0, float("inf"), (0.25, 0.75))
    photo = Photo("a,b.jpg", (Face((1.0, 2.0, 3.0, 4.5), 0.5, sure), Face((5, 6, 7, 8), 0.6, None, "too small")))
    none = Photo("c.jpg", (), "no face found")
    assert screen_lines(photo) == [
        "a,b.jpg\tface 1 of 2\tbox 1,2,3,4\t31.2 years\t20-",
        "a,b.jpg\tface 2 of 2\tbox 5,6,7,8\ttoo small",
    ]
    assert screen_lines(none) == ["c.jpg\tno face found"]
    for name in ("out.csv", "out.jsonl"):
        with photo_writer(tmp_path / name) as write:
            write(photo)
            write(none)
    with pytest.raises(KeyError, match="c"), photo_writer(tmp_path / "late.jsonl") as write:
        list(map(write, map({"a": photo}.__getitem__, ("a", "c"))))
    assert not (tmp_path / "late.jsonl").exists()
    assert len((tmp_path / "late.unfinished.jsonl").read_text().splitlines()) == 2
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == photo_json(photo) + photo_json(none)
    assert rows[0]["high"] is None
    assert rows[0]["probabilities"] == [0.25, 0.75]
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == ["a,b.jpg", "a,b.jpg", "c.jpg"]
    assert table[0]["age"] == "31.25"
    assert table[0]["probabilities"] == "0.25 0.75"
    assert table[2]["reason"] == "no face found"


def test_the_command_reads_names_and_ends_with_1_if_one_gave_no_age(
    photo_model: Path, photos: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.tiny_cli",
        "predict",
        str(photo_model),
        "-",
        "--out",
        str(tmp_path / "ages.csv"),
    ]
    names = f"{photos / 'crop.png'}\n{photos / 'broken.jpg'}\n"
    done = subprocess.run(command, input=names, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert "years\t" in first
    assert "truncated or corrupt" in second
    assert done.stderr.splitlines()[-1] == "error: 1 of the images gave no age; their lines say why"
    assert len((tmp_path / "ages.csv").read_text().splitlines()) == 3


def test_a_trained_model_learns_where_faces_sit(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "data", n=40, size=96)
    config = TrainConfig(
        arch="tiny", trainable="fc", weights="random", data=data, out=tmp_path / "run", image_size=64, epochs=1
    )
    report = train(config, lambda _: None)
    assert report["test"]["intervals"]["coverage"] == 0.9
    _, trained = load_model(tmp_path / "run")
    assert trained.framing is None  # the tests train without it
    assert trained.intervals is not None
    write_model_config(tmp_path / "run" / "model", replace(trained, intervals=None))
    said: list[str] = []
    framing = frame(tmp_path / "run", said.append)
    assert framing == pytest.approx(framing_of(load_dataset(data, 64, cache=tmp_path / "cache"), said.append), abs=0.05)
    assert framing == pytest.approx(Framing(0.49, 0.62, 0.57), abs=0.06)
    framed = load_model(tmp_path / "run")[1]
    assert framed.framing == framing
    np.testing.assert_allclose(framed.intervals.radii[0][:40], trained.intervals.radii[0][:40], atol=1e-3)
    assert "intervals fitted to 10 validation images" in said[0]
