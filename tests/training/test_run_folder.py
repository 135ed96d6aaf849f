import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from jaxage.config import TrainConfig, to_json
from jaxage.training.run_folder import (
    RunError,
    RunName,
    create_run,
    find_run,
    non_default_flags,
    open_run,
    read_config,
    require_inputs,
)
from jaxage.utils.files import write_json

INPUTS = {"data": "sum", "weights": {"tag": "random", "sha256": None}}


def quiet(_: str) -> None:
    pass


def begin(config: TrainConfig, root: Path = Path("runs"), given: frozenset[str] | None = None) -> TrainConfig:
    """A run that has got as far as its folder."""
    with open_run(config, quiet, given, RunName(root)) as run:
        create_run(run, INPUTS)
    return run.config


def test_a_new_run_leaves_its_settings_and_environment(tmp_path: Path) -> None:
    config = begin(TrainConfig(out=tmp_path / "run", trainable="fc, layer4"))
    assert config.trainable == "fc,layer4"
    assert read_config(tmp_path / "run") == config
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["devices"]
    assert environment["packages"]["jax"].startswith("0.")


def test_the_default_folder_names_arch_trainable_and_time(tmp_path: Path) -> None:
    for root, prefix in ((tmp_path / "a", ""), (tmp_path / "b", "lr-find-")):
        with open_run(TrainConfig(trainable="fc,layer4:0.1"), quiet, None, RunName(root, prefix)) as run:
            create_run(run, INPUTS)
        assert run.folder.parent == root
        assert run.folder.name.startswith(f"{prefix}resnet18-fc+layer4x0.1-20")


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    begin(TrainConfig(out=tmp_path / "run"))
    with pytest.raises(RunError, match="--resume"):
        begin(TrainConfig(out=tmp_path / "run"))


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        begin(TrainConfig(out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_takes_the_stored_settings(tmp_path: Path) -> None:
    first = begin(TrainConfig(out=tmp_path / "run", epochs=3, trainable="fc"))
    again = begin(TrainConfig(out=tmp_path / "run", resume=True))
    assert again == replace(first, resume=True)


@pytest.mark.parametrize(
    ("asked", "given", "words"),
    [
        ({"epochs": 5}, None, "--epochs 3, not --epochs 5"),
        ({"epochs": 5}, {"epochs"}, "--epochs 3, not --epochs 5"),
        ({"epochs": 10}, {"epochs"}, "--epochs 3, not --epochs 10"),
        ({"flip": True}, {"flip"}, "--no-flip, not --flip"),
    ],
)
def test_resume_with_other_settings_is_refused_by_name(
    asked: dict[str, object], given: set[str] | None, words: str, tmp_path: Path
) -> None:
    """Also with the default, if it is typed; what is not typed is as it was."""
    begin(TrainConfig(out=tmp_path / "run", epochs=3, flip=False))
    config = TrainConfig(out=tmp_path / "run", resume=True, **asked)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=words):
        begin(config, given=None if given is None else frozenset(given))
    assert begin(TrainConfig(out=tmp_path / "run", resume=True), given=frozenset()).epochs == 3


def test_events_may_be_asked_for_or_left_off_when_a_run_is_resumed(tmp_path: Path) -> None:
    first = TrainConfig(out=tmp_path / "run", resume=True)
    begin(first)
    followed = replace(first, tensorboard=True)
    assert begin(followed).tensorboard
    assert begin(followed, given=frozenset({"tensorboard"})).tensorboard
    assert not begin(first).tensorboard
    begin(replace(followed, out=tmp_path / "followed"))
    assert begin(replace(first, out=tmp_path / "followed"), given=frozenset()).tensorboard
    assert not begin(replace(first, out=tmp_path / "followed"), given=frozenset({"tensorboard"})).tensorboard
    assert non_default_flags(followed) == ""


def test_what_was_resolved_is_apart_from_what_was_asked(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path / "run", epochs=3)
    chosen = {"dtype": "float32", "weights": "random", "cache_features": "off"}
    with open_run(config, quiet) as run:
        create_run(replace(run, config=replace(run.config, **chosen)), INPUTS)  # type: ignore[arg-type]
    with open_run(replace(config, resume=True), quiet) as run:
        assert (run.config.dtype, run.config.weights, run.config.cache_features) == ("float32", "random", "off")
        assert non_default_flags(run.asked) == non_default_flags(config) == "--epochs 3"
    with (
        pytest.raises(RunError, match="--dtype auto, not --dtype bfloat16"),
        open_run(replace(config, resume=True, dtype="bfloat16"), quiet),
    ):
        pass


def test_a_run_whose_loss_was_auto_keeps_the_loss_that_was_chosen(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path / "run")
    begin(config)
    for name, fields in (("config.json", to_json(config) | {"loss": "auto"}), ("resolved.json", {"loss": "huber"})):
        (tmp_path / "run" / name).write_text(json.dumps(fields))
    with open_run(replace(config, resume=True), quiet) as run:
        assert run.config.loss == "huber"


def test_a_run_of_an_earlier_version_agrees_with_what_it_was_started_with(tmp_path: Path) -> None:
    """It has the chosen values in place of "auto", and no resolved.json."""
    write_config(tmp_path / "run", TrainConfig(loss="huber", dtype="float32", cache_features="off", weights="random"))
    typed = frozenset({"dtype", "weights"})
    found, _ = find_run(TrainConfig(out=tmp_path / "run", resume=True), typed)
    assert (found.loss, found.weights) == ("huber", "random")
    with pytest.raises(RunError, match="--loss huber, not --loss l1"):
        find_run(TrainConfig(out=tmp_path / "run", resume=True, loss="l1"), typed | {"loss"})


@pytest.mark.parametrize("text", ["[]", '{"lost": 1}', "{"])
def test_resolved_settings_that_are_none_are_named(text: str, tmp_path: Path) -> None:
    begin(TrainConfig(out=tmp_path / "run"))
    (tmp_path / "run" / "resolved.json").write_text(text)
    with pytest.raises(RunError, match=r"resolved\.json"):
        begin(TrainConfig(out=tmp_path / "run", resume=True))


def test_resume_without_out_finds_the_newest(tmp_path: Path) -> None:
    for name in ("resnet18-fc-20200101-000000", "resnet18-fc-20210101-000000", "resnet18-all-20220101-000000"):
        write_config(tmp_path / name, TrainConfig(trainable="fc"))
    _, folder = find_run(TrainConfig(trainable="fc", resume=True), name=RunName(tmp_path))
    assert folder == tmp_path / "resnet18-fc-20210101-000000"


def test_a_run_killed_before_its_settings_were_written_is_begun_again(tmp_path: Path) -> None:
    begin(TrainConfig(out=tmp_path / "run"))
    (tmp_path / "run" / "config.json").unlink()
    begin(TrainConfig(out=tmp_path / "run"))
    assert (tmp_path / "run" / "config.json").exists()


def test_resume_of_nothing_starts(tmp_path: Path) -> None:
    begin(TrainConfig(out=tmp_path / "run", resume=True))
    assert (tmp_path / "run" / "config.json").exists()


def test_no_run_no_settings(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.json"):
        read_config(tmp_path)


def write_config(folder: Path, config: TrainConfig) -> None:
    folder.mkdir()
    write_json(folder / "config.json", to_json(config))


def test_finding_writes_nothing(tmp_path: Path) -> None:
    find_run(TrainConfig(out=tmp_path / "run"))
    find_run(TrainConfig(), name=RunName(tmp_path / "runs"))
    assert not list(tmp_path.iterdir())


def test_who_is_refused_touches_nothing(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path / "run")
    with open_run(config, quiet) as run:
        for _ in range(2):
            with pytest.raises(RunError, match="in use by another process"), open_run(config, quiet):
                pass
            assert (tmp_path / "run" / ".lock").exists()
        create_run(run, INPUTS)
    with pytest.raises(RunError, match="already holds a run"), open_run(config, quiet):
        pass
    assert (tmp_path / "run" / "config.json").exists()


def test_a_refused_run_leaves_no_folder_not_even_the_one_above(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"), open_run(TrainConfig(), quiet, None, RunName(tmp_path / "runs")):
        raise ValueError("no data")
    assert not list(tmp_path.iterdir())


def _start(root: Path, barrier: Any, queue: "multiprocessing.Queue[tuple[str, str]]") -> None:
    """A run in one folder for all, then one in a folder of its own, each begun by all processes at once."""
    for way, out in (("named", root / "named" / "run"), ("unnamed", None)):
        barrier.wait()
        try:
            with open_run(TrainConfig(out=out), quiet, None, RunName(root / "unnamed")) as run:
                create_run(run, INPUTS)
                with (run.folder / "work").open("x") as file:
                    file.write(run.folder.name)
        except RunError:
            queue.put((way, "refused"))
        else:
            queue.put((way, run.folder.name))


def test_ten_runs_started_at_once(tmp_path: Path) -> None:
    """With a name one of them gets it and loses nothing; without, each has a folder of its own."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[tuple[str, str]] = context.Queue()
    arguments = tmp_path, context.Barrier(10), queue
    processes = [context.Process(target=_start, args=arguments) for _ in range(10)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in range(20)]
    for process in processes:
        process.join()
    for way, winners in (("named", 1), ("unnamed", 10)):
        folders = [folder for its, folder in found if its == way and folder != "refused"]
        assert len(folders) == len(set(folders)) == winners
        for folder in folders:
            assert (tmp_path / way / folder / "work").read_text() == folder
            assert (tmp_path / way / folder / "config.json").exists()
        assert sorted(path.name for path in (tmp_path / way).iterdir()) == sorted(folders)


def test_a_run_goes_on_with_its_own_data_and_weights_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    require_inputs(folder, INPUTS)
    begin(TrainConfig(out=folder))
    require_inputs(folder, INPUTS | {"input": "which runs of earlier versions do not name"})
    with pytest.raises(RunError, match=r"its data have changed .*data was sum, is another"):
        require_inputs(folder, INPUTS | {"data": "another"})


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
    assert non_default_flags(TrainConfig(epochs=3, frozen_bn="train", seed=0)) == "--frozen-bn train --epochs 3"
    config = TrainConfig(augment=True, flip=False, unfreeze="fc@0", split_seed=3, balance=0.5, data=Path("a.csv"))
    assert tyro.cli(TrainConfig, args=non_default_flags(config).split()) == config
