from pathlib import Path

import pytest

from jaxage.cli import main
from jaxage.commands.plan import plan
from jaxage.config import TrainConfig
from tests.faces import write_faces


@pytest.mark.usefixtures("tiny")
def test_a_plan_reads_no_image_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = write_faces(tmp_path, n=60)
    for image in (tmp_path / "faces").iterdir():
        image.unlink()
    before = sorted(tmp_path.rglob("*"))
    said: list[str] = []
    config = TrainConfig(arch="tiny", trainable="fc", weights="random", data=faces, image_size=32, batch_size=8)
    found = plan(config, said.append)
    assert sum(found["images"].values()) == 60
    assert found["decoded_bytes"] == 60 * 32 * 32 * 3
    assert found["image_share"] == found["decoded_bytes"] // 2
    assert found["checkpoint_bytes"] == 2 * 5 * 4 * 9  # of fc: 8 weights and a bias
    rows = 60 + found["images"]["train"] + found["images"]["validation"] + found["images"]["test"]
    assert found["features_bytes"] == rows * 8 * 4
    assert found["temporary_bytes"] > 0
    assert any("kept on the devices" in line for line in said)
    streamed: list[str] = []
    plan(
        TrainConfig(arch="tiny", weights="random", data=faces, image_size=32, batch_size=8, memory_budget=0.0),
        streamed.append,
    )
    assert any("more than the budget: streamed" in line for line in streamed)
    arguments = "train --arch tiny --weights random --image-size 32 --batch-size 8 --dry-run --data"
    main([*arguments.split(), str(faces), "--out", str(tmp_path / "run")])
    assert "nothing was trained (--dry-run)" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
