import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxage
from jaxage.cli import COMMANDS, main
from jaxage.commands.arguments.fields import GROUPS
from jaxage.config import TrainConfig, to_json
from jaxage.utils.files import write_json

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command", ["train", "study", "lr-find", "evaluate", "predict", "explain", "push", "prepare", "convert"]
)
def test_help_explains_each_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: jaxage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("train", "--trainable"),
        ("evaluate", "RUN"),
        ("predict", "IMAGE..."),
        ("convert_weights", "--weights"),
        ("study", "--seeds"),
    ],
)
def test_the_scripts_are_doors_to_the_commands(script: str, word: str) -> None:
    path = ROOT / "scripts" / f"{script}.py"
    assert len(path.read_text().splitlines()) <= 10
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainable", "fc,layr4", "--weights", "random"], ["'layr4'", "did you mean 'layer4'"]),
        (["--data", "nowhere.csv"], ["nowhere.csv"]),
        (["--weights", "imagenet21k"], ["'imagenet21k'", "resnet18.imagenet1k_v1"]),
        (["--epochs", "0"], ["--epochs"]),
        (["--arch", "resnet5"], ["resnet18", "resnet50"]),
    ],
)
def test_a_mistake_gets_one_clear_answer(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxage.data.load.DEMO_FACES", 30)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", str(tmp_path / "run"), "--image-size", "32", *arguments])
    assert stop.value.code not in (0, None)
    answer = f"{stop.value.code} {capsys.readouterr().err}"
    for word in words:
        assert word in answer
    assert "Traceback" not in answer


def test_only_known_errors_are_turned_into_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("jaxage.commands.arguments.train.run_training", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["train", "--out", str(tmp_path / "run")])


def test_a_file_in_the_way_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", str(tmp_path / "file" / "run"), "--weights", "random"])
    assert str(stop.value.code).startswith(f"error: '{tmp_path / 'file'}")


def test_ctrl_c_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxage.commands.arguments.train.run_training", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--epochs", "10"], "--epochs 2, not --epochs 10"),
        (["--epochs=10"], "--epochs 2, not --epochs 10"),
        (["--flip"], "--no-flip, not --flip"),
        (["--cache_features", "auto"], "--cache-features off, not --cache-features auto"),
    ],
)
def test_what_is_typed_is_compared_on_resume_though_it_is_a_default(
    typed: list[str], words: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", to_json(TrainConfig(epochs=2, flip=False, cache_features="off")))
    write_json(tmp_path / "resolved.json", {})
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", str(tmp_path), "--resume", *typed])
    assert words in str(stop.value.code)


def test_the_list_of_commands_loads_nothing_and_says_what_their_help_says() -> None:
    code = "import sys; from jaxage.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, loaded = done.stdout.splitlines()
    assert not {"jax", "numpy", "tyro"} & set(loaded.split())
    for name, about in COMMANDS.items():
        module = importlib.import_module(f"jaxage.commands.arguments.{name.replace('-', '_')}")
        command = getattr(module, name.replace("-", "_"))
        assert (inspect.getdoc(command) or "").splitlines()[0] == about
        assert any(line.split() == [name, *about.split()] for line in shown)


def test_predict_loads_what_it_needs_only() -> None:
    code = "import sys, jaxage.commands.arguments.predict; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "jinja2", "tensorflow_datasets", "orbax", "torch"} & set(loaded)


@pytest.mark.parametrize(("name", "words"), [("trian", "did you mean train"), ("fly", "choose one of train")])
def test_an_unknown_command_is_named(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert not exit.value.code
    assert capsys.readouterr().out == f"jaxage {jaxage.__version__}\n"


def test_options_of_train_are_in_groups() -> None:
    assert sorted(" ".join(GROUPS.values()).split()) == sorted(field.name for field in dataclasses.fields(TrainConfig))


def test_the_shell_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tyro-print-completion", "bash"])
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    ask = "COMP_WORDS=(jaxage train --bal); COMP_CWORD=2; _tyro_jaxage; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "--balance"
