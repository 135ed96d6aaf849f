import json
import math
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxage.commands.benchmark import end_to_end as processes
from jaxage.commands.benchmark import run as module
from jaxage.commands.benchmark.run import BenchmarkConfig, benchmark
from jaxage.commands.benchmark.to_mae import best_mae, median_of
from jaxage.types import UserError
from tests.faces import write_faces


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


@pytest.mark.usefixtures("tiny")
def test_time_to_an_error_is_that_of_the_first_epoch_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    table = write_faces(tmp_path / "data")
    popen = subprocess.Popen

    def start_tiny(command: list[str], **others: Any) -> Any:
        return popen([word.replace("jaxage.cli", "tests.tiny_cli") for word in command], **others)

    monkeypatch.setattr(subprocess, "Popen", start_tiny)
    config = small(tmp_path, configurations=("tiny:fc",), to_mae=1000.0, data=table, epochs=500, seeds=1)
    result = benchmark(config, lambda _: None)
    (times,) = result["to_mae"]
    assert "rows" not in result
    assert min(times["first_s"], times["second_s"]) > 0


def test_the_smallest_error_of_whole_lines_counts(tmp_path: Path) -> None:
    history = tmp_path / "metrics.jsonl"
    assert best_mae(history) == math.inf
    lines = [
        "a warning",
        '{"validation": {"mae": 6.5}}',
        '{"validation": {"mae": null}}',
        '{"validation": {"mae": 7.0}}',
    ]
    history.write_text("\n".join(lines) + '\n{"validation": {"mae": 1')
    assert best_mae(history) == 6.5
    assert median_of([3.0, 1.0, 2.0]) == 2.0
    assert median_of([3.0, None]) is None


def test_what_cannot_be_timed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and files before anything is run, and a process that fails with the end of what it said."""
    quick(monkeypatch)
    table = write_faces(tmp_path / "data")
    config = small(tmp_path, configurations=("resnet18:fc",), to_mae=5.0, data=table, seeds=1)
    with pytest.raises(UserError, match="'imagenet21k' is neither"):
        benchmark(replace(config, weights="imagenet21k"), lambda _: None)
    with pytest.raises(UserError, match="did you mean 'layer4'"):
        benchmark(replace(config, configurations=("resnet18:fc,layr4",)), lambda _: None)
    table.write_text("path,age\n" + "".join(f"faces/{i:03}.png,30\n" for i in range(60)))
    with pytest.raises(RuntimeError, match=r"(?s)train .* failed.*every age"):
        benchmark(config, lambda _: None)
    (tmp_path / "data" / "faces" / "003.png").unlink()
    with pytest.raises(UserError, match=r"faces/003\.png.*missing"):
        benchmark(config, lambda _: None)


def test_to_mae_needs_faces(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give both"):
        small(tmp_path, to_mae=5.0)


@pytest.mark.usefixtures("tiny")
def test_what_does_not_fit_ends_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_no_compilation_cache", nullcontext)
    quick(monkeypatch)
    measure = module._measure

    def full(config: Any, case: Any, *others: Any) -> Any:
        if case.trainable == "all":
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte\nand more")
        return measure(config, case, *others)

    monkeypatch.setattr(module, "_measure", full)
    said: list[str] = []
    rows = benchmark(small(tmp_path, configurations=("tiny:all", "tiny:fc"), rounds=1), said.append)["rows"]
    assert "Out of memory" in rows[0]["error"]
    assert "and more" not in rows[0]["error"]
    assert any("too large for the device" in line for line in said)
    assert rows[1]["step"] > 0


@pytest.mark.parametrize("text", ["vgg16:fc", "resnet18"])
def test_a_configuration_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"'{text}' is not a model"):
        benchmark(small(tmp_path, configurations=(text,)))
