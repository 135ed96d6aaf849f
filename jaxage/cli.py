"""The command line: `jaxage train|evaluate|predict|prepare|convert`. Only this file knows tyro."""

import io
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxage.config import TrainConfig
from jaxage.convert import convert as convert_weights
from jaxage.data.funnel import Criteria
from jaxage.evaluate import evaluate as score
from jaxage.fit import Diverged, Stopped
from jaxage.predict import predict as predict_ages
from jaxage.prepare import prepare as prepare_faces
from jaxage.pretrained.sources import WeightsUnavailableError
from jaxage.report.writers import scores_table
from jaxage.train import train as run_training
from jaxage.types import Arch, Split, SplitRule, UserError

_Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
_Images = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")]]


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
    """Fine-tune a network on faces, and test it."""
    run_training(config)


def evaluate(
    run: _Run,
    data: Path | None = None,
    on: Split | None = None,
    max_bad: float | None = None,
    out: Path | None = None,
) -> None:
    """Score the model of a run.

    Args:
        run: The folder of a finished run.
        data: A CSV of faces, as for train; without it, the run's own data.
        on: The split to score; without it, the test split of the run's own data, every row of other data.
        max_bad: The largest share of images that may be missing or broken; without it, the run's.
        out: A JSON file to write the scores to as well.
    """
    scores = score(run, data, on, max_bad)
    print(scores_table({scores["split"]: scores}))
    if scores["failed"]:
        print(f"{scores['failed']} images could not be used and are not among them")
    if out is not None:
        out.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def predict(run: _Run, images: _Images) -> None:
    """Print the predicted age in years of each image.

    Args:
        run: The folder of a finished run, or its model folder.
        images: Face crops, framed like the ones the model was trained on.
    """
    for path, age in zip(images, predict_ages(run, images), strict=True):
        print(f"{path}\t{age:.1f}")


def prepare(
    collection: tyro.conf.Positional[Literal["imdb-crop", "wiki-crop"]],
    root: Path,
    criteria: Annotated[Criteria, tyro.conf.arg(name="")],
    split: SplitRule = "random",
) -> None:
    """Choose the faces of IMDB-WIKI's crops, and write a CSV of them for train --data.

    Args:
        collection: Which half of the dataset.
        root: The extracted imdb_crop or wiki_crop folder, with its .mat file; the CSV goes there.
        criteria: What a record must meet.
        split: How to divide, 60/20/20: "identity" puts no person on two sides.
    """
    prepare_faces("imdb" if collection == "imdb-crop" else "wiki", root, criteria, split)


def convert(arch: Arch, weights: str, out: Path | None = None) -> None:
    """Convert torch weights to Flax, check every stage, and write safetensors.

    Args:
        arch: The network.
        weights: A tag of weights/manifest.json, or a .pth or .safetensors file.
        out: The folder to write into; without it, weights/.
    """
    convert_weights(arch, weights, out)


_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "prepare": prepare,
    "convert": convert,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 1 and one message on what the user can mend, with 128 + n after signal n."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="jaxage",
            description="Fine-tune ImageNet networks to predict age from a face.",
            args=arguments,
        )
    except (UserError, WeightsUnavailableError, Diverged) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)


if __name__ == "__main__":
    main()
