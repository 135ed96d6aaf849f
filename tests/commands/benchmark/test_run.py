import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from jaxage.commands.benchmark import end_to_end as processes
from jaxage.commands.benchmark import run as module
from jaxage.commands.benchmark.run import BenchmarkConfig, benchmark
from jaxage.types import UserError


def small(tmp_path: Path, **changes: object) -> BenchmarkConfig:
    settings = {"image_size": 32, "batch_size": 4, "images": 20, "rounds": 2, "out": tmp_path / "benchmark.json"}
    return BenchmarkConfig(**(settings | changes))  # type: ignore[arg-type]


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    monkeypatch.setattr(module, "torch_available", lambda: False)


@pytest.mark.usefixtures("tiny")
def test_rates_of_a_frozen_and_of_a_free_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_no_compilation_cache", nullcontext)
    quick(monkeypatch)
    said: list[str] = []
    config = small(tmp_path, configurations=("tiny:fc", "tiny:all"), profile=tmp_path / "epoch.png")
    result = benchmark(config, said.append)
    assert json.loads((tmp_path / "benchmark.json").read_text()) == json.loads(json.dumps(result))
    head, whole = result["rows"]
    for row in (head, whole):
        assert all(row[name] > 0 for name in ("step", "predict", "epoch", "compile_s", "gflop", "share", "step_bytes"))
        assert row["difference"] < 1e-3
    assert head["cached_step"] > 0
    assert head["cached_epoch"] > 0
    assert not any(name.startswith(("cached", "torch")) for name in whole)
    assert whole["gflop"] > 1.5 * head["gflop"]
    assert sum(line.startswith("tiny") for line in said) == 2
    assert {path.name for path in tmp_path.glob("*.png")} == {"epoch-tiny-fc.png", "epoch-tiny-all.png"}


@pytest.mark.usefixtures("tiny")
def test_whole_processes_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_no_compilation_cache", nullcontext)
    quick(monkeypatch)
    run_process = processes._run_process

    def run_tiny(command: list[str], *others: Any) -> float:
        return run_process([word.replace("jaxage.cli", "tests.tiny_cli") for word in command], *others)

    monkeypatch.setattr(processes, "_run_process", run_tiny)
    config = small(tmp_path, configurations=("tiny:fc",), rounds=1, end_to_end_epochs=1, end_to_end_images=20)
    (times,) = benchmark(config, lambda _: None)["end_to_end"]
    assert min(times["first_s"], times["second_s"]) > 0


@pytest.mark.parametrize("text", ["vgg16:fc", "resnet18"])
def test_a_configuration_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"'{text}' is not a model"):
        benchmark(small(tmp_path, configurations=(text,)))
