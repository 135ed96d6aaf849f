import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxage.cli import main
from jaxage.commands.convert import stage_check
from jaxage.pretrained.convert import to_flax
from jaxage.pretrained.load import find_weights
from jaxage.pretrained.safetensors_io import read_metadata
from jaxage.utils.trees import flatten
from tests.pretrained.state import torch_state


def test_a_file_is_converted_and_every_stage_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch_state("resnet18")
    save_file(state, tmp_path / "resnet18_mine.safetensors")
    arguments = ["convert", "--arch=resnet18", f"--weights={tmp_path / 'resnet18_mine.safetensors'}"]
    main([*arguments, f"--out={tmp_path / 'new' / 'folder'}"])
    printed = capsys.readouterr().out
    written = tmp_path / "new" / "folder" / "resnet18.mine.safetensors"
    assert f"written: {written}" in printed
    rows = [line.split() for line in printed.splitlines()]
    stages = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    assert [row[0] for row in rows if row and row[0] in stages] == stages
    (conv1,) = (row for row in rows if row[:1] == ["conv1"])
    assert conv1[1:3] == ["1", "9,408"]
    assert float(conv1[3]) == pytest.approx(np.linalg.norm(state["conv1.weight"]), rel=1e-4)
    assert json.loads(read_metadata(written)["input"])["interpolation"] == "bilinear"
    kept = flatten(find_weights(written, "resnet18").variables)
    for name, value in flatten(to_flax(state, "resnet18").variables).items():
        assert kept[name].tobytes() == value.tobytes()


def test_another_weight_shows_in_its_stage_and_after() -> None:
    state = torch_state("resnet18")
    before = stage_check(to_flax(state, "resnet18").variables, "resnet18", image_size=32).splitlines()
    state["layer3.1.conv2.weight"] *= 1.01
    after = stage_check(to_flax(state, "resnet18").variables, "resnet18", image_size=32).splitlines()
    changed = [a.split()[0] for a, b in zip(before, after, strict=True) if a != b]
    assert changed == ["layer3", "layer4", "avgpool"]


def test_a_head_that_is_not_there_is_not_shown() -> None:
    state = {name: value for name, value in torch_state("resnet18").items() if not name.startswith("fc")}
    assert "fc" not in stage_check(to_flax(state, "resnet18").variables, "resnet18", image_size=32)
