"""The command line. Only this file imports tyro."""

import ast
import inspect
import io
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING as DATACLASS_MISSING
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_type_hints

import tyro
from tyro import MISSING
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from jaxage.commands.benchmark.run import BenchmarkConfig
from jaxage.commands.benchmark.run import benchmark as run_benchmark
from jaxage.commands.convert import convert as convert_weights
from jaxage.commands.evaluate import evaluate as score
from jaxage.commands.explain import explain as explain_images
from jaxage.commands.lr_find import RANGE_TESTS
from jaxage.commands.lr_find import lr_find as find_learning_rate
from jaxage.commands.predict import predict as predict_ages
from jaxage.commands.prepare import prepare as prepare_faces
from jaxage.commands.prepare import prepare_synthetic
from jaxage.commands.study.run import StudyConfig
from jaxage.commands.study.run import study as run_study
from jaxage.commands.train import train as run_training
from jaxage.config import TrainConfig
from jaxage.data.importers.importer import Importer
from jaxage.data.importers.table import IMPORTERS
from jaxage.data.load import DEMO_FACES, DEMO_SIZE, image_size
from jaxage.data.prepare.options import PrepareOptions
from jaxage.losses import LOSSES
from jaxage.models.registry import MODELS
from jaxage.pretrained.download import WeightsUnavailableError
from jaxage.report.tables import scores_table
from jaxage.training.loop import Diverged, Stopped
from jaxage.training.run_folder import find_run
from jaxage.types import Arch, Split, UserError
from jaxage.utils.files import write_json
from jaxage.utils.runtime import prepare_jax, restart_with_huge_pages


class Asked(NamedTuple):
    """Settings of a run, and which of them were typed."""

    config: TrainConfig
    given: frozenset[str]


_Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
_File = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
_Images = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")]]


def train(asked: Annotated[Asked, tyro.conf.arg(name="")]) -> None:
    """Fine-tune a network on faces, and test it."""
    settings, _ = find_run(*asked)  # a resumed run has the settings it was started with
    prepare_jax(image_size(settings))
    run_training(asked.config, given=asked.given)


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
        data: A CSV of faces or a prepared folder, as for train; without it, the run's own data.
        on: The split to score; without it, the test split of the run's own data, every row of other data.
        max_bad: The largest share of images that may be missing or broken; without it, the run's.
        out: A JSON file to write the scores to as well.
    """
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    prepare_jax()
    scores = score(run, data, on, max_bad)
    print(scores_table({scores["split"]: scores}))
    if scores["failed"]:
        print(f"{scores['failed']} images could not be used and are not among them")
    if out is not None:
        write_json(out, scores)


def predict(run: _Run, images: _Images) -> None:
    """Print the predicted age in years of each image.

    Args:
        run: The folder of a finished run, or its model folder.
        images: Face crops, framed like the ones the model was trained on.
    """
    prepare_jax()
    for path, age in zip(images, predict_ages(run, images), strict=True):
        print(f"{path}\t{age:.1f}")


def explain(run: _Run, images: _Images, out: Path = Path("explained")) -> None:
    """Show where a model looks: for each image, what makes it say older or younger.

    Args:
        run: The folder of a finished run, or its model folder.
        images: Face crops, framed like the ones the model was trained on.
        out: The folder for a picture of each.
    """
    prepare_jax()
    explain_images(run, images, out)


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
        weights: A tag of weights/manifest.json, or a .pth or .safetensors file.
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


_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "explain": explain,
    "prepare": prepare,
    "convert": convert,
    "lr-find": lr_find,
    "study": study,
    "benchmark": benchmark,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit with 1 and one message for errors that the user can fix, with 128 + n after signal n."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with _field_rules(arguments):
            tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="jaxage",
                description="Fine-tune ImageNet networks to predict age from a face.",
                args=arguments,
            )
    except (UserError, WeightsUnavailableError, Diverged) as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        sys.exit(1)
    except OSError as error:
        sys.exit(f"error: {error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)


def _field_rules(arguments: Sequence[str]) -> ConstructorRegistry:
    """How tyro reads our dataclasses: choices from tables, help without line breaks of docstrings, and `Asked`."""
    registry = ConstructorRegistry()
    typed = {text.partition("=")[0].removeprefix("--").replace("-", "_") for text in arguments if text.startswith("--")}

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is Asked:
            names = {field.name for field in fields(TrainConfig)}
            given = frozenset(name for name in names if {name, f"no_{name}"} & typed)
            return StructConstructorSpec(lambda **values: Asked(TrainConfig(**values), given), _options(TrainConfig))
        if is_dataclass(info.type) and info.type.__module__.startswith("jaxage."):
            return StructConstructorSpec(info.type, _options(info.type))
        return None

    return registry


def _options(config: type) -> tuple[StructFieldSpec, ...]:
    """An option for each field of a dataclass, with its docstring as help."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0].body  # type: ignore[attr-defined]
    helps = {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    types = get_type_hints(config, include_extras=True)
    types |= {"arch": Literal[*MODELS], "loss": Literal["auto", *LOSSES], "file": _File}
    return tuple(
        StructFieldSpec(
            field.name,
            types[field.name],
            MISSING if field.default is DATACLASS_MISSING else field.default,
            helps[field.name],
        )
        for field in fields(config)
    )


def run(*command: str) -> None:
    """`command` with the arguments of this process, which begins anew if that makes long work faster."""
    arguments = [*command, *sys.argv[1:]]
    if arguments[:1] in (["train"], ["study"], ["benchmark"]) and not {"-h", "--help"} & set(arguments):
        restart_with_huge_pages()
    main(arguments)


if __name__ == "__main__":
    run()
