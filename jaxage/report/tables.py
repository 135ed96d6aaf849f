"""The files of a run that people and programs read: tables, CSVs and the model card."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.data.records import Failure, Records
from jaxage.utils.files import write_text

_METRICS = {
    "plcc": ("PLCC", ".3f"),
    "srocc": ("SROCC", ".3f"),
    "mae": ("MAE", ".2f"),
    "rmse": ("RMSE", ".2f"),
    "cs5": ("CS@5", ".3f"),
}

_CARD = """\
# {arch}, fine-tuned for age regression

Trained by jaxage on {data}; learned: {trainable}; started from {weights}.

On its own test split ({n} images): PLCC {plcc}, SROCC {srocc}, MAE {mae} years. {leakage}

| true age | images | MAE | bias |
|---|---:|---:|---:|
{bands}

Bias is predicted minus true age, in years.

**Not for age verification or gating**, nor for any decision about a person. Errors are several years, larger for the
ages that training saw little of: minors and the old are few in face datasets and are judged badly. Data such as
IMDB-WIKI and UTKFace are for non-commercial research; a model trained on them inherits those terms.

`model.json` is the input contract: size, resizing, color normalization, and how the output becomes an age.
"""


def scores_table(scores: dict[str, dict[str, Any]]) -> str:
    """A row for each named set of scores, with 95 % intervals, for the screen."""
    titles = "".join(f"{title:>22}" for title, _ in _METRICS.values())
    lines = [f"{'':<12}{'n':>7}{titles}"]
    for name, part in scores.items():
        cells = (_with_interval(part[key], part[f"{key}_ci95"], form) for key, (_, form) in _METRICS.items())
        lines.append(f"{name:<12}{part['n']:>7}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def results_table(report: dict[str, Any]) -> str:
    """Validation and test, the test's people who were seen in training and those who were not, and the time taken."""
    rows = {split: report[split] for split in ("validation", "test")}
    sides = {name: report["test"][name] for name in ("seen", "unseen")}
    rows |= {f"test, {name}": side for name, side in sides.items() if all(sides.values())}
    table = scores_table(rows)
    timing = report["timing"]
    best = f"best epoch {report['best_epoch']}; " if report["solver"] == "adamw" else ""
    return (
        f"\n{table}\n\n{best}{timing['total_s']:.0f} s in all, "
        f"{timing['compile_s']:.0f} s of them compiling; {timing['train_images_per_s']:.0f} training images/s"
    )


def model_card(report: dict[str, Any]) -> str:
    """Markdown that goes with the exported model: what it is, how well it does by age, what it is not for."""
    test = report["test"]
    bands = "\n".join(
        f"| {band['first']}-{band['last']} | {band['n']} | {mae} | {bias} |"
        for band in test["age_bands"]
        for mae, bias in [(_number(band["mae"], ".1f"), _number(band["bias"], "+.1f"))]
    )
    shown = {name: _number(test[name], form) for name, (_, form) in _METRICS.items()}
    about = {"arch": report["arch"], "trainable": report["trainable"], "n": test["n"], "bands": bands}
    about["leakage"] = _leakage(report)
    return _CARD.format(data=report["data"]["name"], weights=report["weights"]["tag"], **about, **shown)


def _leakage(report: dict[str, Any]) -> str:
    leaks, unseen = report["data"]["leakage"], report["test"]["unseen"]
    if not leaks["test_images_known"]:
        return "Who the people are is not known, so some may be in training too."
    known = f"Of {leaks['test_images_known']:,} of them it is known who they show"
    seen = f"{known}, for {leaks['test_images_seen']:,} someone seen in training"
    return f"{seen}; of the others: MAE {_number(unseen['mae'], '.2f')} years." if unseen else f"{seen}."


def write_predictions(path: Path, records: Records, prediction: np.ndarray) -> None:
    """CSV `path,age,prediction`, a line per record, ages in years, with all digits that a float32 has."""
    rows = zip(records.path, records.age, prediction, strict=True)
    write_csv(path, ("path", "age", "prediction"), ((name, f"{age:.9g}", f"{guess:.9g}") for name, age, guess in rows))


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """CSV `path,reason`, a line per image that could not be used."""
    write_csv(path, ("path", "reason"), ((failure.path, failure.reason) for failure in failures))


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """UTF-8 with line feeds, written whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _with_interval(value: float | None, interval: list[float] | None, form: str) -> str:
    if interval is None:
        return _number(value, form)
    return f"{_number(value, form)} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
