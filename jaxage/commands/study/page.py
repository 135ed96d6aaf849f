"""The files of a study: study.json, study.csv, study.md, and study.html with its pictures inside."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from jaxage.commands.study.plots import (
    balance_panels,
    band_lines,
    calibration_panels,
    curve_panels,
    differences,
    interval_lines,
)
from jaxage.commands.study.recipes import Protocol
from jaxage.commands.study.summary import (
    Comparison,
    Difference,
    ModelSummary,
    Result,
    Score,
    StudySummary,
    by_model,
)
from jaxage.data.dataset import Dataset
from jaxage.data.records import SPLITS
from jaxage.metrics import AGE_BANDS, METRICS, Metric, headlines
from jaxage.report.contact_sheet import contact_sheet
from jaxage.report.groups import GroupError, with_interval, worst_line
from jaxage.report.plots import age_histograms, scatter
from jaxage.utils.files import write_csv, write_json, write_text

_WORST = 24
_INTERVALS = ("interval_covered", "interval_width")
_SECTIONS = ("ages", "steps", "gains", "scatter", "curves", "bands", "balance", "calibration", "intervals", "worst")

_WHERE_KNOWN: dict[str, tuple[Callable[[Path, Any], None], str]] = {
    "balance": (balance_panels, "What --balance gives the young and the old, and takes from the others"),
    "intervals": (interval_lines, "Intervals by true age: how often they hold it, and how wide they are"),
}
"""Fields of `ModelSummary` that some models lack: how they are drawn for those that have them, and what they show."""


class Picture(NamedTuple):
    """A picture of the page: its file, its caption, and a description for those who cannot see it."""

    path: Path
    caption: str
    text: str

    @property
    def data(self) -> str:
        """The file as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


def write_study(
    folder: Path, summary: StudySummary, results: Sequence[Result], data: Mapping[Protocol, Dataset], *, worst: bool
) -> None:
    """Write all files of a study. Pictures of an earlier page are removed.

    Args:
        folder: Where to write; the pictures go into `figures/`.
        summary: What `summarize` returned, with `funnel` and `demonstration`.
        results: The runs that were summarized.
        data: The data of each protocol.
        worst: Whether to show the faces with the largest errors.
    """
    (folder / "figures").mkdir(exist_ok=True)
    for old in (folder / "figures").glob("*.png"):
        old.unlink()
    pictures: dict[str, list[Picture]] = {section: [] for section in _SECTIONS}
    for section, picture in _pictures(folder / "figures", summary, results, data):
        pictures[section].append(picture)
    if worst:
        pictures["worst"] = _worst_faces(folder / "figures", summary, results, data)
    write_json(folder / "study.json", summary)
    write_csv(folder / "study.csv", *_csv(summary))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxage.commands.study"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": _interval, "spread": _spread, "change": _change, "verdict": _verdict}
    environment.filters |= {"years": _years, "percent": _percent, "with_interval": with_interval}
    environment.filters |= {"worst": worst_line, "groups": _groups}
    values = {"study": summary, "pictures": pictures, "metrics": METRICS, "headlines": headlines(), "splits": SPLITS}
    values["bands"] = [f"{first}-{last}" for first, last in AGE_BANDS]
    for name in ("study.md", "study.html"):
        text = environment.get_template(f"{name}.j2").render(values | _counts(summary))
        write_text(folder / name, text)


def _pictures(
    folder: Path, summary: StudySummary, results: Sequence[Result], data: Mapping[Protocol, Dataset]
) -> Iterator[tuple[str, Picture]]:
    """Draw each picture; yields its section of the page with it."""
    for number, (protocol, dataset) in enumerate(data.items()):
        models = [model for model in summary["models"] if model["protocol"] == protocol]
        if not models:
            continue
        runs = _runs_of(protocol, summary, results)
        if not number or not summary["same_test"]:
            yield "ages", _ages(folder, protocol, dataset)
        for each in runs.values():
            yield "scatter", _scatter(folder, dataset, each[0])
        yield "curves", _curves(folder, protocol, runs)
        yield "bands", _bands(folder, protocol, models)
        yield "calibration", _calibration(folder, protocol, models)
        for section, (draw, words) in _WHERE_KNOWN.items():
            if known := {model["name"]: model[section] for model in models if model[section]}:  # type: ignore[literal-required]
                path, caption = folder / f"{section}-{protocol}.png", f"{words}, protocol {protocol}."
                draw(path, known)
                yield section, Picture(path, caption, f"{caption} study.json has the numbers.")
    for section, comparisons in (("steps", summary["steps"]), ("gains", summary["gains"])):
        if comparisons:
            yield section, _differences(folder, section, comparisons)


def _runs_of(protocol: str, summary: StudySummary, results: Sequence[Result]) -> dict[str, list[Result]]:
    names = list(dict.fromkeys(model["name"] for model in summary["models"]))
    return {name: runs for (its, name), runs in by_model(results, names).items() if its == protocol}


def _ages(folder: Path, protocol: str, dataset: Dataset) -> Picture:
    path, records = folder / f"ages-{protocol}.png", dataset.records
    age_histograms(path, {split: records.age[records.rows_of(split)] for split in SPLITS})
    counts = ", ".join(f"{len(records.rows_of(split)):,} in {split}" for split in SPLITS)
    return Picture(path, f"Faces by age: {counts}.", f"Histograms of ages: {counts}.")


def _scatter(folder: Path, dataset: Dataset, run: Result) -> Picture:
    ages = dataset.records.age[dataset.records.rows_of("test")]
    path, scores = folder / f"scatter-{run.protocol}-{run.model.slug}.png", run.report["test"]
    scatter(path, run.prediction, ages, scores, f"{run.model.arch}, {run.model.trainable}")
    caption = f"{run.model.arch}, {run.model.trainable}; protocol {run.protocol}, seed {run.seed}."
    measured = ", ".join(metric.sentence(scores.get(name)) for name, metric in headlines().items())
    return Picture(path, caption, f"Predicted against true age of {len(ages):,} test faces: {measured}. {caption}")


def _curves(folder: Path, protocol: str, runs: Mapping[str, list[Result]]) -> Picture:
    path = folder / f"curves-{protocol}.png"
    curve_panels(path, {name: [run.history for run in each] for name, each in runs.items()})
    best = "; ".join(f"best of {name}: {METRICS['mae'].sentence(_best_mae(each))}" for name, each in runs.items())
    caption = f"Validation MAE during training, one line for each seed, protocol {protocol}."
    return Picture(path, caption, f"{caption} {best}.")


def _bands(folder: Path, protocol: str, models: Sequence[ModelSummary]) -> Picture:
    path = folder / f"bands-{protocol}.png"
    band_lines(path, {model["name"]: model["groups"]["age"] for model in models})
    caption = f"Errors by true age, protocol {protocol}. Bias is predicted minus true age."
    return Picture(path, caption, f"{caption} The table below has the numbers.")


def _calibration(folder: Path, protocol: str, models: Sequence[ModelSummary]) -> Picture:
    path = folder / f"calibration-{protocol}.png"
    calibration_panels(path, {model["name"]: model["calibration"] for model in models})
    gaps = {model["name"]: max(abs(p["true"] - p["predicted"]) for p in model["calibration"]) for model in models}
    text = "; ".join(f"{name} is off by at most {gap:.1f} years" for name, gap in gaps.items())
    caption = f"True age by predicted age, in tenths of the test split, protocol {protocol}."
    return Picture(path, caption, f"{caption} {text}.")


def _differences(folder: Path, section: str, comparisons: Sequence[Comparison]) -> Picture:
    path = folder / f"{section}.png"
    rows = [(_row_title(section, each), each["metrics"]) for each in comparisons]
    differences(path, rows)
    caption = (
        "Paired differences with 95 % intervals. Gray: the interval contains 0. The axes are logarithmic away from 0."
    )
    text = "; ".join(f"{name}: {_verdict(measured)}" for name, measured in rows)
    return Picture(path, caption, f"{caption} {text}.")


def _worst_faces(
    folder: Path, summary: StudySummary, results: Sequence[Result], data: Mapping[Protocol, Dataset]
) -> list[Picture]:
    """For each protocol, the largest errors of the model with the smallest MAE."""
    pictures = []
    for protocol, dataset in data.items():
        firsts = [runs[0] for runs in _runs_of(protocol, summary, results).values()]
        if not firsts:
            continue
        best = min(firsts, key=lambda run: run.report["test"]["mae"] or np.inf)
        rows = dataset.records.rows_of("test")
        ages = dataset.records.age[rows]
        largest = np.argsort(-np.abs(best.prediction - ages), kind="stable")[:_WORST]
        captions = [f"{ages[i]:.0f} → {best.prediction[i]:.0f}" for i in largest]
        path = folder / f"worst-{protocol}.png"
        contact_sheet(path, np.asarray(dataset.images[rows[largest]]), captions, columns=6)
        caption = f"The {len(largest)} largest errors of {best.model.name}, protocol {protocol}: true → predicted age."
        pictures.append(Picture(path, caption, caption))
    return pictures


def _counts(summary: StudySummary) -> dict[str, Any]:
    """The number of models, the number of seeds in words, and whether a model has only one seed."""
    counts = sorted({len(model["seeds"]) for model in summary["models"]})
    seeds = f"{' to '.join(str(n) for n in counts[:: max(1, len(counts) - 1)])} seed{'s' * (counts[-1] > 1)} each"
    names = len({model["name"] for model in summary["models"]})
    return {"names": names, "seeds": seeds, "single": counts[0] == 1}


def _row_title(section: str, each: Comparison) -> str:
    if section == "gains":
        return each["to"].replace(":", " ", 1)
    arch = each["to"].partition(":")[0]
    low, high = (name.partition(":")[2].split(",") for name in (each["from"], each["to"]))
    added = ", ".join(layer for layer in high if layer not in low)
    grown = set(low) < set(high)
    return f"{each['protocol']}: {arch} + {added}" if grown else f"{each['protocol']}: {arch} {','.join(high)}"


def _best_mae(runs: Sequence[Result]) -> float | None:
    """The lowest validation MAE of any seed."""
    values = [line["validation"]["mae"] for run in runs for line in run.history]
    return min((value for value in values if value is not None), default=None)


def _csv(summary: StudySummary) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and one line for each model."""
    scores = (f"{name}{end}" for name in METRICS for end in ("", "_spread", "_low", "_high"))
    lines = []
    for model in summary["models"]:
        cells = [model["protocol"], model["arch"], model["trainable"], str(len(model["seeds"]))]
        cells += [str(model["trainable_parameters"]), f"{model['seconds']:.1f}"]
        sure = model["intervals"]
        cells += ["", ""] if sure is None else [f"{sure['covered']:.6g}", f"{sure['width'] or math.inf:.6g}"]
        for name in METRICS:
            score = model["scores"][name]
            values = [score["mean"], score["spread"], *(score["ci95"] or (None, None))]
            cells += ["" if value is None else f"{value:.6g}" for value in values]
        lines.append(tuple(cells))
    return ("protocol", "arch", "trainable", "seeds", "trainable_parameters", "seconds", *_INTERVALS, *scores), lines


def _groups(model: ModelSummary) -> list[tuple[str, GroupError]]:
    """The errors of all groups with their titles: both ends and the middle first."""
    named = [(part["name"], part) for part in model["ends"]]
    return named + [(f"{by} {part['name']}", part) for by, parts in model["groups"].items() for part in parts]


def _interval(score: Score | Difference, metric: Metric, sign: str = "") -> str:
    ends = score["ci95"]
    return "-" if ends is None else f"[{metric.format(ends[0], sign)}, {metric.format(ends[1], sign)}]"


def _spread(score: Score, metric: Metric) -> str:
    spread = score["spread"]
    return "-" if spread is None else f"± {metric._replace(digits=metric.digits + 1).format(spread)}"


def _change(measured: Difference, metric: Metric) -> str:
    value = measured["difference"]
    if value is None or measured["ci95"] is None:
        return "-"
    return f"{metric.format(value, '+')} {_interval(measured, metric, '+')}"


def _years(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _verdict(measured: Mapping[str, Difference]) -> str:
    """What the headline metrics show, in words."""
    words = {}
    for name, metric in headlines().items():
        value, ends = measured[name]["difference"], measured[name]["ci95"]
        if value is None or ends is None or ends[0] <= 0 <= ends[1]:
            words[metric.title] = "no difference shown"
        else:
            words[metric.title] = "better" if (value > 0) == metric.higher_is_better else "worse"
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{title}: {word}" for title, word in words.items())
