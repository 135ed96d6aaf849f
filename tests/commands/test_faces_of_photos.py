"""Labeled photos: evaluate scores the faces in them, prepare cuts them out."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxage.commands.evaluate import EvaluateOptions, evaluate
from jaxage.commands.predict import predict
from jaxage.commands.prepare import prepare
from jaxage.config import TrainConfig, to_json
from jaxage.data.importers.csv_file import CSV, CsvOptions
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepared import open_prepared
from jaxage.types import UserError
from jaxage.utils.files import write_json
from tests.photos.pictures import album, drawn_faces

pytestmark = pytest.mark.usefixtures("own_cache", "tiny", "network")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photos with one face somewhere, one of several people, and one of nobody."""
    folder = tmp_path_factory.mktemp("labeled")
    rng = np.random.default_rng(0)
    for i, face in enumerate(drawn_faces(20, 128)):
        ground = rng.integers(90, 160, 3)
        photo = Image.new("RGB", (500, 400), tuple(ground.tolist()))
        photo.paste(Image.fromarray(face), (int(rng.integers(0, 370)), int(rng.integers(0, 270))))
        photo.save(folder / f"{i:02}.png")
    album()[0].save(folder / "several.png")
    Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(folder / "nobody.png")
    names = [*(f"{i:02}.png" for i in range(20)), "several.png", "nobody.png"]
    rows = [f"{name},{20 + i},{('train', 'validation', 'test')[i % 3]}" for i, name in enumerate(names)]
    (folder / "photos.csv").write_text("path,age,split\n" + "\n".join(rows) + "\n")
    return folder / "photos.csv"


def test_evaluate_scores_the_faces_that_predict_finds(photo_model: Path, table: Path) -> None:
    write_json(photo_model / "config.json", to_json(TrainConfig(arch="tiny", max_bad=0.2)))
    scores = evaluate(photo_model, EvaluateOptions(table, faces="photo"))
    found = {Path(photo.path).name: photo for photo in predict(photo_model, [table.parent], "photo")}
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if len(found[row["path"]].faces) == 1]
    errors = [abs(found[row["path"]].faces[0].estimate.age - float(row["age"])) for row in rows]
    assert scores["n"] == len(rows) >= 18
    assert scores["failed"] == 22 - len(rows)
    assert scores["mae"] == pytest.approx(np.mean(errors), abs=1e-3)
    assert 0 <= scores["intervals"]["covered"] <= 1
    whole = evaluate(photo_model, EvaluateOptions(table))
    assert whole["n"] == 22
    assert whole["mae"] != pytest.approx(scores["mae"], abs=1e-4)
    with pytest.raises(UserError, match=r"no face found|faces: whose age"):
        evaluate(photo_model, EvaluateOptions(table, faces="photo", max_bad=0.0))


def test_prepare_cuts_faces_out_and_quarantines_the_rest(table: Path, tmp_path: Path) -> None:
    options = PrepareOptions(tmp_path / "out", faces="photo", max_bad=0.3)
    folder = prepare(CSV, CsvOptions(table), options, lambda _: None)
    with (folder / "quarantine.csv").open(newline="") as file:
        bad = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert bad["several.png"] == "3 faces: whose age it is, is unknown"
    assert bad["nobody.png"] == "no face found"
    prepared = open_prepared(folder)
    assert len(prepared.records) + len(bad) == 22
    for path in prepared.records.path[:3].tolist():
        crop = prepared.read(path)
        assert crop[:2] == b"\xff\xd8"
        assert len(crop) < (table.parent / path).stat().st_size * 3
