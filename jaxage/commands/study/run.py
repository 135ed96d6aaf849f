"""The study: which layers are worth unfreezing? Many models, some seeds, one or two protocols, one page to read."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jaxage.commands.study.page import write_study
from jaxage.commands.study.recipes import HEADS, REPORT_MODELS, ModelSpec, Protocol, parse_model, recipe
from jaxage.commands.study.summary import Result, read_result, summarize
from jaxage.commands.train import train
from jaxage.config import TrainConfig, cache_folder
from jaxage.data.dataset import Dataset
from jaxage.data.load import load_data
from jaxage.data.prepared import read_manifest
from jaxage.pretrained.load import RANDOM, find_weights
from jaxage.training.loop import Diverged, Stopped
from jaxage.training.run_folder import REPORT, RunError
from jaxage.training.setup import check_settings
from jaxage.types import Log, SplitChoice, UserError
from jaxage.utils.files import write_json

_SETTINGS = "study-settings.json"


@dataclass(frozen=True)
class StudyConfig:
    """Train and test the seven models of the report, and write a page that compares them."""

    data: Path | None = None
    """A folder that jaxage prepare has made, or a CSV, as for train; without it, jaxage draws its own faces."""

    out: Path = Path("study")
    """The folder for the page, its tables and all runs. If it holds this study, what is missing is done."""

    protocol: Literal["report", "best", "both"] = "both"
    """"report" trains as the 2024 report did, "best" as jaxage found best; "both" does both."""

    models: tuple[str, ...] = tuple(spec.name for spec in REPORT_MODELS)
    """Networks and what learns, such as "resnet18:fc,layer4"; neighbours of one network are compared."""

    seeds: int = 3
    """How often each model is trained, with seeds from 0 on. The split is the same for all."""

    weights: tuple[str, ...] = ()
    """Where networks start if not from torchvision's weights, such as resnet18=FILE and mobilenet_v2=dsr_in1k."""

    image_size: int | None = None
    """Height and width in pixels; without it, 224 for your data and 64 for the drawn faces."""

    epochs: int = 10
    """How often each training image is seen; in "best", heads on kept features go over them ten times as often."""

    batch_size: int = 32
    """Images per step, over all devices."""

    max_bad: float = 0.01
    """The largest share of images that may be missing or broken before it stops."""

    memory_budget: float | None = None
    """GiB of each device that the images may take; without it, half of the device."""

    show_worst: bool = False
    """Show the faces with the largest errors on the page. Only where the terms of the data allow it."""


def study(config: StudyConfig, log: Log = print) -> dict[str, Any]:
    """Train what is missing in `config.out`, and write study.html, .md, .csv and .json there; what the last holds.

    A run that diverges is noted and left out; it does not stop the others. What can be known to be wrong is refused
    before the first run. Raises UserError as `train` does and if no run is left, RunError if the folder
    holds another study, and Stopped after a signal.
    """
    if config.data is not None:
        config = replace(config, data=config.data.resolve())
    plan = plan_runs(config)
    lasting = _lasting(config)
    _require_same(config.out, lasting)
    for run in plan:
        _check(config, run)
    data = {protocol: _load(config, protocol) for protocol in protocols(config)}
    settings = {run: train_config(config, run, _choice(data[run.protocol])) for run in plan}
    _find_all_weights(settings.values())
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / _SETTINGS, lasting)

    started = time.perf_counter()
    results, failed = _train_all(settings, data, log)
    if not results:
        reasons = "; ".join(f"{each['run']}: {each['reason']}" for each in failed)
        raise UserError(f"no run came to an end ({reasons}): there is nothing to compare")
    summary = summarize(results, data, failed, config.models) | {"funnel": _funnel(config)}
    summary["demonstration"] = config.data is None
    write_study(config.out, summary, results, data, worst=config.show_worst)
    log(f"\n{time.perf_counter() - started:.0f} s; the study: {config.out / 'study.html'}")
    return summary


@dataclass(frozen=True)
class PlannedRun:
    """One training: how, what, with which seed, and where."""

    protocol: Protocol
    model: ModelSpec
    seed: int
    folder: Path


def _train_all(
    settings: Mapping[PlannedRun, TrainConfig], data: Mapping[Protocol, Dataset], log: Log
) -> tuple[list[Result], list[dict[str, str]]]:
    """What came of every run, those of earlier processes included, and what diverged and how."""
    plan, spent = list(settings), list[float]()
    results, failed = list[Result](), list[dict[str, str]]()
    for number, run in enumerate(plan, 1):
        title = f"{run.protocol}, {run.model.name}, seed {run.seed}"
        fresh = not (run.folder / REPORT).exists()
        if fresh:
            log(f"\n== run {number} of {len(plan)}: {title}")
        before = time.perf_counter()
        try:
            report = train(settings[run], log if fresh else lambda _: None)
        except Diverged as error:
            reason = str(error).partition("; ")[0]
            log(f"   left out: {reason}")
            failed.append({"run": title, "reason": reason})
            continue
        except Stopped as stop:
            where = f"run {number} of {len(plan)}"
            raise Stopped(f"stopped in {where}; the same command goes on there", stop.signum) from stop
        results.append(read_result(run.protocol, run.model, run.seed, run.folder, report, data[run.protocol]))
        if fresh:
            spent.append(time.perf_counter() - before)
            log(f"   {_time_left(plan[number:], spent)}")
    return results, failed


def protocols(config: StudyConfig) -> tuple[Protocol, ...]:
    """The protocols that are asked for."""
    return ("report", "best") if config.protocol == "both" else (config.protocol,)


def plan_runs(config: StudyConfig) -> list[PlannedRun]:
    """All runs, seed by seed, so that a table of every model exists as early as can be.

    Raises UserError for no seed, a model that is none or named twice, and weights of no network that is studied.
    """
    if config.seeds < 1:
        raise UserError(f"--seeds must be 1 or more, got {config.seeds}")
    _weights(config)
    models = [parse_model(text) for text in config.models]
    twice = {model.name for model in models if models.count(model) > 1}
    if twice or not models:
        raise UserError(f"--models must name each model once, and at least one; twice: {', '.join(twice) or 'none'}")
    return [
        PlannedRun(protocol, model, seed, config.out / "runs" / protocol / model.slug / f"seed-{seed}")
        for seed in range(config.seeds)
        for protocol in protocols(config)
        for model in models
    ]


def train_config(config: StudyConfig, run: PlannedRun, split: SplitChoice) -> TrainConfig:
    """The settings of one run."""
    fields = recipe(run.protocol, run.model, config.epochs) | {"split": split}
    if run.model.arch in (weights := _weights(config)):
        fields["weights"] = weights[run.model.arch]
    return TrainConfig(
        arch=run.model.arch,
        trainable=run.model.trainable,
        data=config.data,
        image_size=config.image_size,
        batch_size=config.batch_size,
        max_bad=config.max_bad,
        memory_budget=config.memory_budget,
        seed=run.seed,
        split_seed=0,
        out=run.folder,
        resume=True,
        **fields,
    )


def _check(config: StudyConfig, run: PlannedRun) -> None:
    try:
        check_settings(train_config(config, run, "given"))
    except UserError as error:
        raise UserError(f"{run.model.name}: {error}") from error


def _weights(config: StudyConfig) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in config.weights)
    unknown = set(pairs) - set(HEADS)
    if unknown or not all(pairs.values()):
        raise UserError(f"--weights {' '.join(config.weights)}: write NETWORK=WEIGHTS, networks are {', '.join(HEADS)}")
    return pairs


def _find_all_weights(settings: Iterable[TrainConfig]) -> None:
    """Fetch and read them once, so that none is missed hours later; the drawn faces go on without."""
    for arch, weights in {(each.arch, each.weights) for each in settings if each.data is not None}:
        if weights != RANDOM:
            find_weights(weights, arch)


def _load(config: StudyConfig, protocol: Protocol) -> Dataset:
    """The checked faces, divided as their CSV says, else as the protocol does."""
    base = TrainConfig(data=config.data, image_size=config.image_size, max_bad=config.max_bad, split_seed=0)
    dataset = load_data(base, cache_folder())
    if dataset.split == "given":
        return dataset
    people = protocol == "best" and bool((dataset.records.identity != "").any())
    rule: SplitChoice = "identity" if people else "random"
    return dataset if dataset.split == rule else load_data(replace(base, split=rule), cache_folder())


def _choice(dataset: Dataset) -> SplitChoice:
    return "given" if dataset.split is None else dataset.split


def _funnel(config: StudyConfig) -> list[dict[str, Any]]:
    """What each criterion kept of a collection's records and images, where jaxage prepare has made the data."""
    if config.data is None or not config.data.is_dir():
        return []
    manifest = read_manifest(config.data)
    return [*manifest.get("funnel", []), *manifest.get("images", [])]


def _lasting(config: StudyConfig) -> dict[str, Any]:
    """What must be the same for all runs in a folder; weights of a further network may be added."""
    return {
        "data": str(config.data),
        "image_size": config.image_size,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "weights": _weights(config),
    }


def _require_same(folder: Path, lasting: dict[str, Any]) -> None:
    if not (folder / _SETTINGS).exists():
        return
    found = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    found["weights"] = lasting["weights"] | found["weights"]
    for name, value in lasting.items():
        if found.get(name) != value:
            raise RunError(
                f"{folder} holds a study with --{name.replace('_', '-')} {found.get(name)}, not {value}: go on with "
                "the same settings, or choose another --out"
            )


def _time_left(rest: list[PlannedRun], spent: list[float]) -> str:
    """By the mean time of the runs so far."""
    missing = [run for run in rest if not (run.folder / REPORT).exists()]
    minutes = len(missing) * sum(spent) / len(spent) / 60
    left = f"about {minutes // 60:.0f} h {minutes % 60:02.0f} min"
    return f"{len(missing)} runs are left, {left}" if missing else "all runs are done"
