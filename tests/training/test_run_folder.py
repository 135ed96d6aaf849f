import json
from pathlib import Path

import pytest
import tyro

from jaxage.config import TrainConfig, to_json
from jaxage.training.run_folder import RunError, create_run, find_run, lock_run_dir, non_default_flags, read_config
from jaxage.utils.files import write_json

INPUTS = {"data": "sum", "weights": {"tag": "random", "sha256": None}}


def open_run(config: TrainConfig, root: Path = Path("runs")) -> tuple[TrainConfig, Path]:
    config, folder = find_run(config, root)
    with lock_run_dir(folder):
        create_run(config, folder, INPUTS)
    return config, folder


def test_a_new_run_leaves_its_settings_and_environment(tmp_path: Path) -> None:
    config, folder = open_run(TrainConfig(out=tmp_path / "run", trainable="fc"))
    assert read_config(folder) == config
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["devices"]
    assert environment["packages"]["jax"].startswith("0.")


def test_the_default_folder_names_arch_trainable_and_time(tmp_path: Path) -> None:
    _, folder = open_run(TrainConfig(trainable="fc,layer4:0.1"), root=tmp_path)
    assert folder.parent == tmp_path
    assert folder.name.startswith("resnet18-fc+layer4x0.1-20")


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    open_run(TrainConfig(out=tmp_path / "run"))
    with pytest.raises(RunError, match="--resume"):
        open_run(TrainConfig(out=tmp_path / "run"))


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        open_run(TrainConfig(out=tmp_path))


def test_resume_takes_the_stored_settings(tmp_path: Path) -> None:
    first, _ = open_run(TrainConfig(out=tmp_path / "run", epochs=3, trainable="fc"))
    again, folder = open_run(TrainConfig(out=tmp_path / "run", resume=True))
    assert again == first
    assert folder == tmp_path / "run"


def test_resume_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    open_run(TrainConfig(out=tmp_path / "run", epochs=3))
    with pytest.raises(RunError, match="--epochs 3, not 5"):
        open_run(TrainConfig(out=tmp_path / "run", epochs=5, resume=True))


def test_resume_without_out_finds_the_newest(tmp_path: Path) -> None:
    for name in ("resnet18-fc-20200101-000000", "resnet18-fc-20210101-000000", "resnet18-all-20220101-000000"):
        write_config(tmp_path / name, TrainConfig(trainable="fc"))
    _, folder = find_run(TrainConfig(trainable="fc", resume=True), root=tmp_path)
    assert folder.name == "resnet18-fc-20210101-000000"


def test_resume_of_nothing_starts(tmp_path: Path) -> None:
    _, folder = open_run(TrainConfig(out=tmp_path / "run", resume=True))
    assert (folder / "config.json").exists()


def test_no_run_no_settings(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.json"):
        read_config(tmp_path)


def write_config(folder: Path, config: TrainConfig) -> None:
    folder.mkdir()
    write_json(folder / "config.json", to_json(config))


def test_finding_writes_nothing(tmp_path: Path) -> None:
    find_run(TrainConfig(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_is_one_processs_at_a_time_and_vanishes_unused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lock_run_dir(folder), pytest.raises(RunError, match="in use by another process"), lock_run_dir(folder):
        pass
    assert not folder.exists()
    open_run(TrainConfig(out=folder))
    with lock_run_dir(folder):
        pass
    assert (folder / "config.json").exists()


def test_a_run_goes_on_with_its_own_data_and_weights_alone(tmp_path: Path) -> None:
    _, folder = open_run(TrainConfig(out=tmp_path / "run"))
    config, _ = find_run(TrainConfig(out=folder, resume=True))
    create_run(config, folder, dict(INPUTS))
    with pytest.raises(RunError, match=r"its data have changed .*data was sum, is another"):
        create_run(config, folder, INPUTS | {"data": "another"})


def test_a_weights_file_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pth").write_bytes(b"")
    config, _ = find_run(TrainConfig(weights="mine.pth"))
    assert config.weights == str(tmp_path / "mine.pth")


@pytest.mark.parametrize("text", ["{", "[]", '{"archi": "resnet18"}'])
def test_settings_that_are_none_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json"):
        read_config(tmp_path)


def test_what_is_unusual_is_written_as_on_the_command_line() -> None:
    assert non_default_flags(TrainConfig()) == ""
    assert non_default_flags(TrainConfig(epochs=3, frozen_bn="train", seed=0)) == "--epochs 3 --frozen-bn train"
    config = TrainConfig(augment=True, flip=False, unfreeze="fc@0", split_seed=3, balance=0.5, data=Path("a.csv"))
    assert tyro.cli(TrainConfig, args=non_default_flags(config).split()) == config
