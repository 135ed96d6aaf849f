"""The texts of a run: tables for the screen, CSV files and the model card."""

from collections.abc import Iterable
from pathlib import Path

from jaxage.data.records import Failure, Records
from jaxage.metrics import METRICS, Metric, headlines
from jaxage.report.groups import with_interval, worst_groups, worst_line
from jaxage.types import Json, Years
from jaxage.utils.files import write_csv

_CARD = """\
# {arch}, fine-tuned for age regression

Trained by jaxage on {data}. Trained layers: {trainable}. Initial weights: {weights}.

Results on its own test split ({n} images): {scores}. {leakage}

| | images | MAE | bias | in the interval | its width |
|---|---:|---:|---:|---:|---:|
{groups}

MAE, bias and width are in years, brackets are 95 % intervals. Bias is predicted minus true age. Largest errors by
{worst}.

An age comes with an interval that holds the true age with a given probability: {intervals}. It is fitted to the errors
on validation images (split conformal, by predicted age). The probability holds for images drawn like those, on average,
not for each age or group of people (see the table), and **not for other data**: other cameras, other people, faces
cropped in another way.

**Not for age verification or gating**, nor for any decision about a person. Errors are several years. They are larger
for ages that are rare in training: face datasets have few minors and few old people. Data such as IMDB-WIKI and UTKFace
are for non-commercial research; a model trained on them inherits those terms.

`model.json` describes the input (size, resizing, color normalization), how the output becomes an age, and where faces
sit in the training crops: the model is for faces that are framed so. jaxage finds them in photos by CenterFace (MIT),
which was trained on WIDER FACE, whose images are for non-commercial research.
"""


def scores_table(scores: dict[str, Json]) -> str:
    """A table for the screen, with 95 % intervals.

    Args:
        scores: For each row its name and what `jaxage.metrics.summary` returned.
    """
    titles = "".join(f"{metric.title:>22}" for metric in METRICS.values())
    lines = [f"{'':<12}{'n':>7}{titles}"]
    for name, part in scores.items():
        cells = (_with_interval(metric, part[key], part[f"{key}_ci95"]) for key, metric in METRICS.items())
        lines.append(f"{name:<12}{part['n']:>7}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def results_table(report: Json) -> str:
    """The end of a run for the screen: scores on validation and test, the best epoch, and the time it took.

    The test split is also divided into people seen in training and people not seen, if there are both.

    Args:
        report: What `report.json` of the run holds.
    """
    rows = {split: report[split] for split in ("validation", "test")}
    sides = {name: report["test"][name] for name in ("seen", "unseen")}
    rows |= {f"test, {name}": side for name, side in sides.items() if all(sides.values())}
    table = scores_table(rows)
    timing, rate = report["timing"], report["timing"]["train_images_per_s"]
    best = f"best epoch {report['best_epoch']}; " if report["solver"] == "adamw" else ""
    worst = worst_groups(report["test"]["groups"])
    largest = f"test: largest errors by {worst_line(worst)}\n" if worst else ""
    return (
        f"\n{table}\n\ntest: {intervals_line(report['test']['intervals'])}\n{largest}{best}{timing['total_s']:.0f} s "
        f"in total, of which {timing['compile_s']:.0f} s compiling; {rate:.0f} training images/s"
    )


def intervals_line(report: Json | None) -> str:
    """How often intervals held the true age, for the screen; from `jaxage.training.intervals.coverage_report`."""
    if report is None:
        return "no intervals: the model has none; jaxage frame RUN adds them"
    width = "unbounded" if report["width"] is None else f"{report['width']:.1f} years wide"
    same = report.get("constant_width")
    width += " on average" + ("" if same is None else f" (one width for all ages: {same:.1f})")
    return f"intervals for {report['coverage']:.0%} hold the age of {report['covered']:.1%}, {width}"


def model_card(report: Json) -> str:
    """The Markdown file that goes with an exported model: what it is, its errors by age, what it must not be used for.

    Args:
        report: What `report.json` of the run holds.
    """
    test = report["test"]
    held = {f"{band['first']}-{band['last']}": band for band in test["intervals"]["by_age"]}
    groups = "\n".join(
        f"| {by} {group['name']} | {group['n']} | {with_interval(group['mae'], group['mae_ci95'])} "
        f"| {with_interval(group['bias'], group['bias_ci95'], '+')} "
        + ("| | |" if by != "age" else f"| {_percent(held.get(group['name']))} | {_width(held.get(group['name']))} |")
        for by, errors in test["groups"].items()
        for group in errors
    )
    return _CARD.format(
        arch=report["arch"],
        data=report["data"]["name"],
        trainable=report["trainable"],
        weights=report["weights"]["tag"],
        n=test["n"],
        scores=", ".join(metric.sentence(test[name]) for name, metric in headlines().items()),
        leakage=_leakage(report),
        groups=groups,
        worst=worst_line(worst_groups(test["groups"])) or "none of the groups: too few images",
        intervals=intervals_line(test["intervals"]).removeprefix("intervals for "),
    )


def calibration_lines(report: Json) -> str:
    """What a calibration is worth, for the screen and the card; from `jaxage.commands.calibrate.calibrate`."""
    held_out, mae = report["held_out"], METRICS["mae"]
    low, high = (mae.format(end, "+") for end in held_out["ci95"] or (None, None))
    verdict = (
        f"it helps, and ages become {report['scale']:.3f} x age {report['offset']:+.2f}"
        if report["helped"]
        else "no gain is shown, and ages stay as they are"
    )
    before = "" if report["before"] is None else f"; the model's own hold {report['before']['covered']:.1%}"
    width = "unbounded" if held_out["width"] is None else f"{held_out['width']:.1f} years wide on average"
    return (
        f"{report['n']:,} faces of {report['data']}: {mae.sentence(held_out['before'])}, calibrated "
        f"{mae.format(held_out['after'])} on people left out\n"
        f"difference {mae.format(held_out['difference'], '+')} [{low}, {high}]: {verdict}\n"
        f"new intervals for {report['coverage']:.0%} hold the age of {held_out['covered']:.1%} of people left out, "
        f"{width}{before}"
    )


def calibration_card(report: Json) -> str:
    """What is added to the card of a calibrated model."""
    return f"\n## Calibrated\n\n{calibration_lines(report)}.\n\nThe numbers above are of the model before that.\n"


def write_predictions(path: Path, records: Records, prediction: Years, low: Years, high: Years) -> None:
    """Write a CSV file `path,age,prediction,low,high`, one line per record; years with all digits of a float32."""
    columns = ([f"{years:.9g}" for years in column.tolist()] for column in (records.age, prediction, low, high))
    write_csv(path, ("path", "age", "prediction", "low", "high"), zip(records.path.tolist(), *columns, strict=True))


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write a CSV file `path,reason`, one line per image that could not be used."""
    write_csv(path, ("path", "reason"), ((failure.path, failure.reason) for failure in failures))


def _leakage(report: Json) -> str:
    leaks, unseen = report["data"]["leakage"], report["test"]["unseen"]
    known, seen = leaks["test_images_known"], leaks["test_images_seen"]
    if not known:
        return "The identities of the people are unknown, so some of them may be in the training split too."
    text = f"The identity is known for {known:,} of them; {seen:,} show a person who is also in the training split."
    return f"{text} On people who are not in it: {METRICS['mae'].sentence(unseen['mae'])}." if unseen else text


def _with_interval(metric: Metric, value: float | None, interval: list[float] | None) -> str:
    if interval is None:
        return metric.format(value)
    return f"{metric.format(value)} [{metric.format(interval[0])}, {metric.format(interval[1])}]"


def _percent(band: Json | None) -> str:
    return "-" if band is None else f"{band['covered']:.0%}"


def _width(band: Json | None) -> str:
    return "-" if band is None or band["width"] is None else f"{band['width']:.1f}"
