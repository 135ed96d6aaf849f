"""The command line. Only this file imports tyro."""

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tqdm import tqdm

from jaxage.commands.benchmark.run import BenchmarkConfig
from jaxage.commands.benchmark.run import benchmark as run_benchmark
from jaxage.commands.convert import convert as convert_weights
from jaxage.commands.evaluate import EvaluateOptions
from jaxage.commands.evaluate import evaluate as score
from jaxage.commands.explain import explain as explain_images
from jaxage.commands.export.run import ExportFormat
from jaxage.commands.export.run import export as export_for
from jaxage.commands.fields import Asked, field_rules
from jaxage.commands.frame import frame as measure_frame
from jaxage.commands.lr_find import RANGE_TESTS
from jaxage.commands.lr_find import lr_find as find_learning_rate
from jaxage.commands.photo_rows import photo_writer, screen_lines
from jaxage.commands.predict import predict as find_ages
from jaxage.commands.prepare import prepare as prepare_faces
from jaxage.commands.prepare import prepare_synthetic
from jaxage.commands.push import PushOptions
from jaxage.commands.push import push as push_model
from jaxage.commands.serve.run import serve as serve_page
from jaxage.commands.study.run import StudyConfig
from jaxage.commands.study.run import study as run_study
from jaxage.commands.train import train as run_training
from jaxage.config import TrainConfig
from jaxage.data.importers.importer import Importer
from jaxage.data.importers.table import IMPORTERS
from jaxage.data.load import DEMO_FACES, DEMO_SIZE, image_size
from jaxage.data.prepare.options import PrepareOptions
from jaxage.photos.files import read_names
from jaxage.pretrained.download import WeightsUnavailableError
from jaxage.report.tables import intervals_line, scores_table
from jaxage.training.loop import Diverged, Stopped
from jaxage.training.run_folder import find_run
from jaxage.types import Arch, FacesIn, UserError
from jaxage.utils.files import explain_os_error, write_json
from jaxage.utils.runtime import prepare_jax, restart_with_huge_pages

_ABOUT = "Fine-tune ImageNet networks to predict age from a face."
_Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
_Repo = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OWNER/NAME")]]
_Images = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE...")]]
_IMAGES_HELP = "Photos, folders with photos in and below them, or - for a list of them from stdin, one a line."
_FACES_HELP = (
    "photo: find the faces, and crop each as the training crops were. crop: take each image whole, as such a crop. "
    "auto: take an image whole if one face fills it as in training."
)


def train(asked: Annotated[Asked, tyro.conf.arg(name="")]) -> None:
    """Fine-tune a network on faces, and test it."""
    settings, _ = find_run(*asked)  # a resumed run has the settings it was started with
    prepare_jax(image_size(settings))
    run_training(asked.config, given=asked.given)


def evaluate(run: _Run, options: Annotated[EvaluateOptions, tyro.conf.arg(name="")], out: Path | None = None) -> None:
    """Score the model of a run.

    Args:
        run: The folder of a finished run.
        options: What it is scored on.
        out: A JSON file to write the scores to as well.
    """
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    prepare_jax()
    scores = score(run, options)
    print(scores_table({scores["split"]: scores}))
    print(intervals_line(scores["intervals"]))
    if scores["failed"]:
        print(f"{scores['failed']} images could not be used and are not among them")
    if out is not None:
        write_json(out, scores)


def predict(
    run: _Run,
    images: Annotated[_Images, tyro.conf.arg(help=_IMAGES_HELP)],
    faces: Annotated[FacesIn, tyro.conf.arg(help=_FACES_HELP)] = "auto",
    coverage: float = 0.9,
    out: Path | None = None,
) -> None:
    """Find the faces of photos, and print the age of each in years.

    Args:
        run: The folder of a finished run, or its model folder.
        coverage: The probability with which the interval after an age is to hold the true age, 0.5 to 0.99.
        out: A .csv or .jsonl file for all of it: box, score, age, interval, and the probability of each year.
    """
    prepare_jax()
    failed = 0
    with photo_writer(out) as write:
        for photo in find_ages(run, read_names(images), faces, coverage):
            write(photo)
            tqdm.write("\n".join(screen_lines(photo)))
            failed += photo.failed
    if failed:
        raise UserError(f"{failed} of the images gave no age; their lines say why")


def explain(
    run: _Run,
    images: Annotated[_Images, tyro.conf.arg(help=_IMAGES_HELP)],
    faces: Annotated[FacesIn, tyro.conf.arg(help=_FACES_HELP)] = "auto",
    out: Path = Path("explained"),
) -> None:
    """Show where a model looks: for each face, what makes it say older or younger.

    Args:
        run: The folder of a finished run, or its model folder.
        out: The folder for a picture of each.
    """
    prepare_jax()
    explain_images(run, read_names(images), out, faces)


def frame(run: _Run) -> None:
    """Measure where faces sit in a model's training crops, so that photos are cropped to match; train does it too.

    Args:
        run: The folder of a finished run. A model of an earlier version also gets its intervals.
    """
    prepare_jax()
    measure_frame(run)


def push(run: _Run, repo: _Repo, options: Annotated[PushOptions, tyro.conf.arg(name="")]) -> None:
    """Upload the model of a run to the Hugging Face Hub, with a card; other commands take it as hf://OWNER/NAME.

    Args:
        run: The folder of a finished run.
        repo: Where to; it is made if need be.
        options: Its license, and who sees it.
    """
    push_model(run, repo, options)


def _prepare_command(importer: Importer[Any]) -> Any:
    """The command of an importer, as a type for tyro."""

    def command(source: Any, options: Annotated[PrepareOptions, tyro.conf.arg(name="")]) -> None:
        prepare_faces(importer, source, options)

    command.__annotations__["source"] = Annotated[importer.options, tyro.conf.arg(name="")]
    about = tyro.conf.subcommand(importer.name, description=importer.title, constructor=command)
    return Annotated[Any, about, tyro.conf.OmitArgPrefixes]


def draw_synthetic(root: Path, faces: int = DEMO_FACES, size: int = DEMO_SIZE, seed: int = 0) -> None:
    """Draw faces, and write them as a tree of IMDb-crop for prepare imdb-crop.

    Args:
        root: The folder to write imdb.mat and the images into.
        faces: How many.
        size: Their height and width in pixels.
        seed: Another seed draws other faces.
    """
    prepare_synthetic(root, faces, size, seed)


_PREPARATIONS = [
    *(_prepare_command(importer) for importer in IMPORTERS.values()),
    Annotated[Any, tyro.conf.subcommand("synthetic", constructor=draw_synthetic)],
]
_Preparation: Any = Union[tuple(_PREPARATIONS)]  # noqa: UP007


def prepare(done: Annotated[_Preparation, tyro.conf.arg(name="")]) -> None:
    """Choose, check and divide faces, and pack them for train --data."""


def convert(arch: Arch, weights: str, out: Path | None = None) -> None:
    """Convert torch weights to Flax, check every stage, and write safetensors.

    Args:
        arch: The network.
        weights: A tag of weights/manifest.json, a file of torch, safetensors or Flax, an Orbax folder, or timm:NAME.
        out: The folder to write into; without it, weights/.
    """
    prepare_jax()
    convert_weights(arch, weights, out)


def benchmark(config: Annotated[BenchmarkConfig, tyro.conf.arg(name="")]) -> None:
    """Measure how fast this machine trains, beside torch where it is installed."""
    prepare_jax(config.image_size)
    run_benchmark(config)


def lr_find(asked: Annotated[Asked, tyro.conf.arg(name="")], steps: int = 300) -> None:
    """Raise the learning rate step by step, and draw how the loss goes: where to set it.

    Args:
        asked: As for train; the folder is runs/lr-find-ARCH-TRAINABLE-TIME without --out.
        steps: How many steps the rate takes from 1e-6 to 1.
    """
    settings, _ = find_run(*asked, RANGE_TESTS)
    prepare_jax(image_size(settings))
    find_learning_rate(asked.config, steps, given=asked.given)


def study(config: Annotated[StudyConfig, tyro.conf.arg(name="")]) -> None:
    """Train the seven models of the report, and write a page that compares them."""
    prepare_jax(image_size(TrainConfig(data=config.data, image_size=config.image_size)))
    run_study(config)


def export(run: _Run, form: Annotated[ExportFormat, tyro.conf.arg(name="format")], out: Path | None = None) -> None:
    """Write a model for another runtime, and compare its ages with JAX's.

    Args:
        run: The folder of a finished run, or its model folder.
        form: onnx (also in 8 bits) and stablehlo take uint8 images and give ages; torch is for timm and torchvision.
        out: The folder to make; without it, export-FORMAT in RUN.
    """
    prepare_jax()
    export_for(run, form, out)


def serve(run: _Run, port: int = 8000, host: str = "127.0.0.1", coverage: float = 0.9) -> None:
    """Open a page that takes photos and shows ages, intervals, and where the network looks.

    Args:
        run: The folder of a finished run, or its model folder.
        port: The port to listen on.
        host: The address to listen on; other machines reach 0.0.0.0, without a password.
        coverage: The probability with which intervals are to hold the true age, 0.5 to 0.99.
    """
    prepare_jax()
    serve_page(run, host, port, coverage)


_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "explain": explain,
    "frame": frame,
    "serve": serve,
    "export": export,
    "push": push,
    "prepare": prepare,
    "convert": convert,
    "lr-find": lr_find,
    "study": study,
    "benchmark": benchmark,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit with 1 and one message for errors that the user can fix, with 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # names need not be UTF-8
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with field_rules(arguments):
            tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="jaxage", description=_ABOUT, args=arguments)
    except (UserError, WeightsUnavailableError, Diverged) as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        sys.exit(1)
    except OSError as error:
        sys.exit(f"error: {explain_os_error(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)


def run(*command: str) -> None:
    """`command` with the arguments of this process, which begins anew if that makes long work faster."""
    arguments = [*command, *sys.argv[1:]]
    if arguments[:1] in (["train"], ["study"], ["benchmark"]) and not {"-h", "--help"} & set(arguments):
        restart_with_huge_pages()
    try:
        main(arguments)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's own end is short, and Ctrl-C would break it


if __name__ == "__main__":
    run()
