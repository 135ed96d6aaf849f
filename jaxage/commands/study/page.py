"""What a study leaves: study.json, study.csv, study.md and one study.html with its pictures inside."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from jaxage.commands.study.plots import band_lines, calibration_panels, curve_panels, differences
from jaxage.commands.study.recipes import Protocol
from jaxage.commands.study.summary import Result, by_model
from jaxage.data.dataset import Dataset
from jaxage.data.records import SPLITS
from jaxage.metrics import METRICS
from jaxage.report.plots import age_histograms, contact_sheet, scatter
from jaxage.report.tables import write_csv
from jaxage.utils.files import write_json, write_text

TITLES = {"plcc": "PLCC", "srocc": "SROCC", "mae": "MAE, years", "rmse": "RMSE, years", "cs5": "CS@5"}
_SHOWN = ("plcc", "srocc", "mae")
_DIGITS = {"plcc": 3, "srocc": 3, "mae": 2, "rmse": 2, "cs5": 3}
_WORST = 24


class Picture(NamedTuple):
    """A picture of the study: its file, what it shows in a sentence below it, and in words for who cannot see it."""

    path: Path
    caption: str
    text: str

    @property
    def data(self) -> str:
        """The file as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


def write_study(
    folder: Path,
    summary: dict[str, Any],
    results: Sequence[Result],
    data: Mapping[Protocol, Dataset],
    *,
    worst: bool,
) -> None:
    """Write all files of the study of `summary` (see `summary.summarize`) into `folder`; the page comes last.

    Pictures lie in `figures/`, too, those of an earlier page no more. `worst` adds the faces with the largest errors.
    """
    (folder / "figures").mkdir(exist_ok=True)
    for old in (folder / "figures").glob("*.png"):
        old.unlink()
    pictures = _pictures(folder / "figures", summary, results, data, worst=worst)
    write_json(folder / "study.json", summary)
    write_csv(folder / "study.csv", _HEADER, _lines(summary))
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxage.commands.study"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "mean": _mean,
        "ends": _ends,
        "spread": _spread,
        "change": _change,
        "verdict": _verdict,
        "years": _years,
        "bias": _bias,
    }
    for name in ("study.md", "study.html"):
        text = page.get_template(f"{name}.j2").render(
            study=summary, pictures=pictures, titles=TITLES, shown=_SHOWN, splits=SPLITS, **_counts(summary)
        )
        write_text(folder / name, text)


def _pictures(
    folder: Path,
    summary: dict[str, Any],
    results: Sequence[Result],
    data: Mapping[Protocol, Dataset],
    *,
    worst: bool,
) -> dict[str, list[Picture]]:
    """By the section of the page that they belong to."""
    made: dict[str, list[Picture]] = {name: [] for name in ("ages", "steps", "gains", "scatter", "curves", "bands")}
    made |= {"calibration": [], "worst": []}
    groups = by_model(results, list(dict.fromkeys(model["name"] for model in summary["models"])))
    for protocol, dataset in data.items():
        models = [model for model in summary["models"] if model["protocol"] == protocol]
        runs = {name: each for (its, name), each in groups.items() if its == protocol}
        if not models:
            continue
        if not made["ages"] or not summary["same_test"]:
            path = folder / f"ages-{protocol}.png"
            age_histograms(path, {split: dataset.records.age[dataset.records.rows_of(split)] for split in SPLITS})
            counts = ", ".join(f"{len(dataset.records.rows_of(split)):,} in {split}" for split in SPLITS)
            made["ages"].append(Picture(path, f"Faces by age: {counts}.", f"Histograms of ages: {counts}."))
        made["scatter"] += [_scatter(folder, dataset, each) for each in runs.values()]
        path = folder / f"curves-{protocol}.png"
        curve_panels(path, {name: [run.history for run in each] for name, each in runs.items()})
        ends = "; ".join(f"{model['name']} reaches {_fixed(_best(runs[model['name']]), 2)} years" for model in models)
        caption = f"Validation MAE while training, a line for each seed, protocol {protocol}."
        made["curves"].append(Picture(path, caption, f"{caption} {ends}."))
        path = folder / f"bands-{protocol}.png"
        band_lines(path, {model["name"]: model["age_bands"] for model in models})
        caption = f"Error by true age, protocol {protocol}. Bias is predicted minus true age."
        made["bands"].append(Picture(path, caption, f"{caption} The table below has the numbers."))
        path = folder / f"calibration-{protocol}.png"
        calibration_panels(path, {model["name"]: model["calibration"] for model in models})
        caption = f"How old are faces that a model says are of one age? Tenths of the test, protocol {protocol}."
        made["calibration"].append(Picture(path, caption, f"{caption} {_calibration_text(models)}"))
        if worst:
            made["worst"].append(_worst(folder, dataset, protocol, runs))
    for section in ("steps", "gains"):
        if summary[section]:
            path = folder / f"{section}.png"
            rows = [(_row_title(section, each), each["metrics"]) for each in summary[section]]
            differences(path, rows, {metric: TITLES[metric] for metric in _SHOWN})
            caption = (
                "Paired differences with 95 % intervals; gray where they hold 0. Axes are logarithmic away from 0."
            )
            text = "; ".join(f"{name}: {_verdict(measured)}" for name, measured in rows)
            made[section].append(Picture(path, caption, f"{caption} {text}."))
    return made


def _counts(summary: dict[str, Any]) -> dict[str, Any]:
    """How many models there are, how many seeds they have in words, and whether one has a single one."""
    counts = sorted({len(model["seeds"]) for model in summary["models"]})
    seeds = f"{' to '.join(str(n) for n in counts[:: max(1, len(counts) - 1)])} seed{'s' * (counts[-1] > 1)} each"
    names = len({model["name"] for model in summary["models"]})
    return {"names": names, "seeds": seeds, "single": counts[0] == 1}


def _row_title(section: str, each: dict[str, Any]) -> str:
    if section == "gains":
        return each["to"].replace(":", " ")
    arch = each["to"].partition(":")[0]
    low, high = (each[end].partition(":")[2].split(",") for end in ("from", "to"))
    added = ", ".join(layer for layer in high if layer not in low)
    grown = set(low) < set(high)
    return f"{each['protocol']}: {arch} + {added}" if grown else f"{each['protocol']}: {arch} {','.join(high)}"


def _scatter(folder: Path, dataset: Dataset, runs: list[Result]) -> Picture:
    run, ages = runs[0], dataset.records.age[dataset.records.rows_of("test")]
    scores = run.report["test"]
    path = folder / f"scatter-{run.protocol}-{run.model.slug}.png"
    scatter(path, run.prediction, ages, scores["plcc"], scores["srocc"], f"{run.model.arch}, {run.model.trainable}")
    caption = f"{run.model.arch}, {run.model.trainable}; protocol {run.protocol}, seed {run.seed}."
    measured = ", ".join(f"{TITLES[metric]} {_fixed(scores[metric], _DIGITS[metric])}" for metric in _SHOWN)
    return Picture(path, caption, f"Predicted against true age of {len(ages):,} test faces: {measured}. {caption}")


def _worst(folder: Path, dataset: Dataset, protocol: Protocol, runs: dict[str, list[Result]]) -> Picture:
    """Of the model with the smallest MAE."""
    best = min(runs.values(), key=lambda each: each[0].report["test"]["mae"] or np.inf)[0]
    rows = dataset.records.rows_of("test")
    ages = dataset.records.age[rows]
    largest = np.argsort(-np.abs(best.prediction - ages), kind="stable")[:_WORST]
    captions = [f"{ages[i]:.0f} → {best.prediction[i]:.0f}" for i in largest]
    path = folder / f"worst-{protocol}.png"
    contact_sheet(path, np.asarray(dataset.images[rows[largest]]), captions, columns=6)
    caption = f"The {len(largest)} largest errors of {best.model.name}, protocol {protocol}: true → predicted age."
    return Picture(path, caption, caption)


def _calibration_text(models: list[dict[str, Any]]) -> str:
    gaps = {model["name"]: max(abs(p["true"] - p["predicted"]) for p in model["calibration"]) for model in models}
    return "; ".join(f"{name} is off by at most {gap:.1f} years" for name, gap in gaps.items()) + "."


def _best(runs: list[Result]) -> float | None:
    """The least validation MAE of any seed."""
    values = [line["validation"]["mae"] for run in runs for line in run.history]
    return min((value for value in values if value is not None), default=None)


_HEADER = (
    "protocol",
    "arch",
    "trainable",
    "seeds",
    "trainable_parameters",
    "seconds",
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_spread", "_low", "_high")),
)


def _lines(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    lines = []
    for model in summary["models"]:
        cells = [model["protocol"], model["arch"], model["trainable"], str(len(model["seeds"]))]
        cells += [str(model["trainable_parameters"]), f"{model['seconds']:.1f}"]
        for metric in METRICS:
            score = model["scores"][metric]
            values = [score["mean"], score["spread"], *(score["ci95"] or (None, None))]
            cells += ["" if value is None else f"{value:.6g}" for value in values]
        lines.append(tuple(cells))
    return lines


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _mean(score: dict[str, Any], metric: str) -> str:
    return _fixed(score["mean"], _DIGITS[metric])


def _ends(score: dict[str, Any], metric: str) -> str:
    digits, ends = _DIGITS[metric], score["ci95"]
    return "-" if ends is None else f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _spread(score: dict[str, Any], metric: str) -> str:
    return "-" if score["spread"] is None else f"± {score['spread']:.{_DIGITS[metric] + 1}f}"


def _change(measured: dict[str, Any], metric: str) -> str:
    digits = _DIGITS[metric]
    value, ends = measured["difference"], measured["ci95"]
    if value is None or ends is None:
        return "-"
    return f"{value:+.{digits}f} [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]"


def _years(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _bias(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _verdict(metrics: Mapping[str, Any]) -> str:
    """What PLCC, SROCC and MAE say together, in words."""
    words = []
    for metric in _SHOWN:
        value, ends = metrics[metric]["difference"], metrics[metric]["ci95"]
        if value is None or ends is None or ends[0] <= 0 <= ends[1]:
            words.append("no difference shown")
        else:
            words.append("better" if (value < 0) == (metric == "mae") else "worse")
    if len(set(words)) == 1:
        return words[0]
    return ", ".join(f"{TITLES[metric].partition(',')[0]}: {word}" for metric, word in zip(_SHOWN, words, strict=True))
