import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from jaxage.commands.calibrate import CalibrateOptions, calibrate
from jaxage.commands.evaluate import EvaluateOptions, evaluate
from jaxage.commands.predict import predict
from jaxage.training.export import load_model
from jaxage.types import UserError
from tests.faces import write_faces

pytestmark = pytest.mark.usefixtures("own_cache", "tiny", "network")


@pytest.fixture(scope="module")
def shifted(photo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces that are 10 years younger than the model says."""
    table = write_faces(tmp_path_factory.mktemp("shifted"))
    paths = sorted((table.parent / "faces").iterdir())
    ages = [photo.faces[0].estimate.age for photo in predict(photo_model, paths, "crop")]
    noise = np.random.default_rng(0).normal(0, 0.2, len(ages))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "age"])
        for path, age, extra in zip(paths, ages, noise, strict=True):
            writer.writerow([f"faces/{path.name}", f"{age - 10 + extra:.3f}"])
    return table


def test_a_shift_is_found_and_the_model_is_used_like_any_other(
    photo_model: Path, shifted: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    report = calibrate(photo_model, CalibrateOptions(shifted), tmp_path / "mine", said.append)
    assert report["helped"]
    assert report["held_out"]["ci95"][1] < 0
    assert "it helps, and ages become" in said[-1]
    assert json.loads((tmp_path / "mine" / "calibration.json").read_text()) == report
    assert "## Calibrated" in (tmp_path / "mine" / "README.md").read_text()
    assert "year i counts as scale * i + offset" in (tmp_path / "mine" / "model.json").read_text()
    before, after = (evaluate(run, EvaluateOptions(shifted)) for run in (photo_model, tmp_path / "mine"))
    assert after["mae"] < 0.5
    assert before["mae"] == pytest.approx(10, abs=0.5)
    assert after["intervals"]["covered"] >= 0.9
    again = calibrate(tmp_path / "mine", CalibrateOptions(shifted), tmp_path / "again", lambda _: None)
    assert not again["helped"]
    config, mine = (load_model(tmp_path / name)[1] for name in ("again", "mine"))
    assert (config.scale, config.offset) == (mine.scale, mine.offset)


def test_what_cannot_be_calibrated_is_refused(photo_model: Path, shifted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="with --out"):
        calibrate("hf://owner/name", CalibrateOptions(shifted))
    digest = hashlib.sha256((shifted.parent / "faces" / "000.png").read_bytes()).hexdigest()
    (photo_model / "train_images.txt").write_text(f"{digest[:16]}\n")
    with pytest.raises(UserError, match="trained on 1 of these 60 faces"):
        calibrate(photo_model, CalibrateOptions(shifted), tmp_path / "trained")
    (photo_model / "train_images.txt").unlink()
    few = shifted.parent / "few.csv"
    few.write_text("".join(shifted.read_text().splitlines(keepends=True)[:20]))
    with pytest.raises(UserError, match=r"few has 19 faces of 19 people .*: at least 30 of 5 are needed"):
        calibrate(photo_model, CalibrateOptions(few), tmp_path / "few")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        calibrate(photo_model, CalibrateOptions(shifted), tmp_path / "full")
