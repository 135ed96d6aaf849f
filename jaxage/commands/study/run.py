"""Run a study: train many models with several seeds under one or two protocols, and write a page that compares them."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxage.commands.study.page import write_study
from jaxage.commands.study.recipes import REPORT_MODELS, Protocol, parse_model, recipe
from jaxage.commands.study.shared_runs import PlannedRun, train_all
from jaxage.commands.study.summary import StudySummary, summarize
from jaxage.config import TrainConfig, cache_folder
from jaxage.data.dataset import Dataset
from jaxage.data.load import load_data
from jaxage.data.prepared import read_manifest
from jaxage.models.registry import MODELS
from jaxage.pretrained.load import RANDOM, find_input, find_weights
from jaxage.training.run_folder import RunError
from jaxage.training.setup import check_settings
from jaxage.types import Json, Log, SplitChoice, UserError
from jaxage.utils.files import lock_file, write_json

_SETTINGS, _LOCK = "study-settings.json", ".study.lock"


@dataclass(frozen=True)
class StudyConfig:
    """Train and test the seven models of the report, and write a page that compares them."""

    data: Path | None = None
    """A folder made by jaxage prepare, or a CSV, as for train. Without it, jaxage draws its own faces."""

    out: Path = Path("study")
    """The folder for the page, its tables and all runs. If it holds this study, only missing runs are trained."""

    protocol: Literal["report", "best", "both"] = "both"
    """"report" trains as the 2024 report did, "best" with the settings that jaxage found best, "both" does both."""

    models: tuple[str, ...] = tuple(spec.name for spec in REPORT_MODELS)
    """Networks and their trainable layers, such as "resnet18:fc,layer4". Neighbors of one network are compared. The
    page shows only the models named here."""

    seeds: int | None = None
    """How often each model is trained, with seeds 0, 1, ... The split is the same for all seeds. By default 3 for your
    data and 1 for drawn faces."""

    weights: tuple[str, ...] = ()
    """Initial weights other than torchvision's, such as resnet18=FILE and mobilenet_v2=dsr_in1k."""

    image_size: int | None = None
    """Height and width in pixels. By default 224 for your data and 48 for drawn faces."""

    epochs: int | None = None
    """How often each training image is seen. In "best", heads see their cached features ten times as often. By default
    10 for your data and 3 for drawn faces."""

    batch_size: int = 32
    """Images per step, over all devices."""

    max_bad: float = 0.01
    """The largest share of images that may be missing or broken. With more, the study stops."""

    memory_budget: float | None = None
    """GiB of each device that the images may use. Without it, half of the device."""

    show_worst: bool = False
    """Show the faces with the largest errors on the page. Use it only where the terms of the data allow it."""


def study(config: StudyConfig, log: Log = print) -> StudySummary:
    """Train the missing runs of a study, and write study.html, .md, .csv and .json into `config.out`.

    All settings are checked before the first run. A run that diverges is left out and named on the page; the others go
    on. Several processes may run one study in one folder at the same time, on one machine or on many that share it:
    they divide the runs, a run whose process is lost is continued by another, and at the end each writes the page. If
    they are asked for different things, the page shows only what the last of them was asked for.

    Returns:
        What study.json holds.

    Raises:
        UserError: For settings, data and weights that cannot be used (see `train`), or if all runs failed.
        RunError: If the folder holds a study with other settings.
        Stopped: After SIGTERM or SIGINT. The same command continues the study.
    """
    if config.data is None:
        log(
            f"a demonstration on drawn faces, --seeds {_seeds(config)} --epochs {_epochs(config)} "
            f"--image-size {_image_size(config)}; your own faces (--data) get 3 seeds, 10 epochs and 224 px"
        )
    else:
        config = replace(config, data=config.data.resolve())
    plan = plan_runs(config)
    shared = _shared_settings(config)
    _require_same(config.out, shared)
    for run in plan:
        _check(config, run)
    data = {protocol: _load(config, protocol) for protocol in protocols(config)}
    for note in dict.fromkeys(note for dataset in data.values() for note in dataset.notes):
        log(f"note: {note}")
    settings = {run: train_config(config, run, _choice(data[run.protocol])) for run in plan}
    _find_all_weights(settings.values())
    _save_settings(config.out, shared | {"data": data[plan[0].protocol].images_sha256})

    started = time.perf_counter()
    results, failed = train_all(settings, data, log)
    if not results:
        reasons = "; ".join(f"{each['run']}: {each['reason']}" for each in failed)
        raise UserError(f"all runs failed ({reasons}): there is nothing to compare")
    names = list(dict.fromkeys(run.model.name for run in plan))
    summary: StudySummary = {
        **summarize(results, data, failed, names),
        "funnel": _funnel(config),
        "demonstration": config.data is None,
    }
    with lock_file(config.out / _LOCK):
        write_study(config.out, summary, results, data, worst=config.show_worst)
    log(f"\n{time.perf_counter() - started:.0f} s; the study: {config.out / 'study.html'}")
    return summary


def protocols(config: StudyConfig) -> tuple[Protocol, ...]:
    """The protocols of the study, "report" first."""
    return ("report", "best") if config.protocol == "both" else (config.protocol,)


def plan_runs(config: StudyConfig) -> list[PlannedRun]:
    """List all runs seed by seed, so that there is a result for every model as early as possible.

    Raises:
        UserError: For fewer than one seed, no model, an unknown model, a model named twice, or weights of an unknown
            network.
    """
    if _seeds(config) < 1:
        raise UserError(f"--seeds must be 1 or more, got {config.seeds}")
    _weights(config)
    models = [parse_model(text) for text in config.models]
    twice = {model.name for model in models if models.count(model) > 1}
    if twice or not models:
        raise UserError(
            f"--models must name at least one model, and each only once; twice: {', '.join(twice) or 'none'}"
        )
    return [
        PlannedRun(protocol, model, seed, config.out / "runs" / protocol / model.slug / f"seed-{seed}")
        for seed in range(_seeds(config))
        for protocol in protocols(config)
        for model in models
    ]


def train_config(config: StudyConfig, run: PlannedRun, split: SplitChoice) -> TrainConfig:
    """The training settings of one run; `split` is how the data are divided."""
    fields = recipe(run.protocol, run.model, _epochs(config)) | {"split": split}
    if run.model.arch in (weights := _weights(config)):
        fields["weights"] = weights[run.model.arch]
    return TrainConfig(
        arch=run.model.arch,
        trainable=run.model.trainable,
        data=config.data,
        image_size=_image_size(config),
        batch_size=config.batch_size,
        max_bad=config.max_bad,
        memory_budget=config.memory_budget,
        seed=run.seed,
        split_seed=0,
        out=run.folder,
        resume=True,
        **fields,
    )


def _seeds(config: StudyConfig) -> int:
    return (1 if config.data is None else 3) if config.seeds is None else config.seeds


def _epochs(config: StudyConfig) -> int:
    return (3 if config.data is None else 10) if config.epochs is None else config.epochs


def _image_size(config: StudyConfig) -> int | None:
    return 48 if config.data is None and config.image_size is None else config.image_size


def _check(config: StudyConfig, run: PlannedRun) -> None:
    try:
        check_settings(train_config(config, run, "given"))
    except UserError as error:
        raise UserError(f"{run.model.name}: {error}") from error


def _weights(config: StudyConfig) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in config.weights)
    if set(pairs) - set(MODELS) or not all(pairs.values()):
        raise UserError(
            f"--weights {' '.join(config.weights)}: write NETWORK=WEIGHTS; networks are {', '.join(MODELS)}"
        )
    return pairs


def _find_all_weights(settings: Iterable[TrainConfig]) -> None:
    """Download and read all weights now, so that no run fails hours later. The demonstration does not need them."""
    for arch, weights in {(each.arch, each.weights) for each in settings if each.data is not None}:
        if weights != RANDOM:
            find_weights(weights, arch)


def _load(config: StudyConfig, protocol: Protocol) -> Dataset:
    """The faces of one protocol, divided as the data say. If they say nothing, the protocol decides."""
    base = TrainConfig(data=config.data, image_size=_image_size(config), max_bad=config.max_bad, split_seed=0)
    weights = _weights(config)
    arch = parse_model(config.models[0]).arch
    contract = find_input(weights.get(arch, base.weights), arch)
    dataset = load_data(base, cache_folder(), contract=contract)
    if dataset.split == "given":
        return dataset
    people = protocol == "best" and bool((dataset.records.identity != "").any())
    rule: SplitChoice = "identity" if people else "random"
    return dataset if dataset.split == rule else load_data(replace(base, split=rule), cache_folder(), contract=contract)


def _choice(dataset: Dataset) -> SplitChoice:
    return "given" if dataset.split is None else dataset.split


def _funnel(config: StudyConfig) -> list[Json]:
    """How many records and images each criterion kept, if the data were made by jaxage prepare."""
    if config.data is None or not config.data.is_dir():
        return []
    manifest = read_manifest(config.data)
    return [*manifest.get("funnel", []), *manifest.get("images", [])]


def _shared_settings(config: StudyConfig) -> Json:
    """The settings that are the same for all runs in a folder. Weights of a further network may be added later."""
    return {
        "image_size": _image_size(config),
        "epochs": _epochs(config),
        "batch_size": config.batch_size,
        "weights": _weights(config),
    }


def _save_settings(folder: Path, shared: Json) -> None:
    """Only one process at a time checks and writes the settings of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock_file(folder / _LOCK):
        _require_same(folder, shared)
        write_json(folder / _SETTINGS, shared)


def _require_same(folder: Path, shared: Json) -> None:
    if not (folder / _SETTINGS).exists():
        return
    found = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    found["weights"] = shared["weights"] | found["weights"]
    if {"data"} <= shared.keys() & found.keys() and found["data"] != shared["data"]:
        raise RunError(f"{folder} holds a study of other data: bring them back, or choose another --out")
    for name, value in shared.items():
        if name != "data" and found.get(name) != value:
            raise RunError(
                f"{folder} holds a study with --{name.replace('_', '-')} {found.get(name)}, not {value}: use the same "
                "settings, or choose another --out"
            )
