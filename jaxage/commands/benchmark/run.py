"""Measure how fast jaxage is on this machine, compared with torch if it is installed."""

import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.sharding import Mesh

from jaxage.commands.benchmark.abstract import Case
from jaxage.commands.benchmark.end_to_end import end_to_end
from jaxage.commands.benchmark.profiler import record
from jaxage.commands.benchmark.to_mae import Race, copy_faces, to_mae
from jaxage.commands.benchmark.torch_baseline import torch_available
from jaxage.commands.benchmark.workloads import JaxageWorkload, TorchWorkload, random_dataset
from jaxage.commands.study.recipes import REPORT_MODELS, parse_model
from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset
from jaxage.pretrained.load import RANDOM
from jaxage.report.timeline import timeline
from jaxage.training.run_folder import environment
from jaxage.training.setup import check_settings
from jaxage.types import Dtype, Json, Log, UserError
from jaxage.utils.files import write_json
from jaxage.utils.sharding import along_batch, mesh_for

CONFIGURATIONS = (*(spec.name for spec in REPORT_MODELS), "resnet18:all")
_SECONDS, _SECONDS_ON_GPU, _PAUSE = 1.0, 0.3, 0.3


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure training steps, prediction and epochs, compared with torch if it is installed."""

    configurations: tuple[str, ...] = CONFIGURATIONS
    """Networks and their trainable layers, such as "resnet18:fc,layer4"."""

    image_size: int = 224
    """Height and width in pixels."""

    batch_size: int = 32
    """Images per step."""

    images: int = 320
    """Images of the random data set: 60 % for training, 20 % for validation."""

    rounds: int = 5
    """How often everything is measured. Medians are reported."""

    dtype: Dtype = "float32"
    """The dtype of the trunk, in jaxage and in torch."""

    compile_torch: bool = False
    """Measure torch.compile instead of plain torch."""

    end_to_end_epochs: int = 0
    """Also time whole fine-tuning runs of that many epochs, from files to test metrics, each in its own process, in
    jaxage and in torch's usual loop. 0 leaves them out."""

    end_to_end_images: int = 2000
    """Images of those runs."""

    to_mae: float | None = None
    """Instead of rates, measure the seconds from launch until the validation MAE is at most this many years, in jaxage
    with its defaults and in torch's usual loop, each in its own process. Needs --data."""

    data: Path | None = None
    """The faces of --to-mae: a CSV with the columns path, age and split."""

    weights: str = RANDOM
    """The initial weights of --to-mae, as for train."""

    epochs: int = 5
    """How many epochs the runs of --to-mae have at most."""

    seeds: int = 3
    """How many runs of each there are for --to-mae; medians are reported."""

    out: Path = Path("benchmark.json")
    """The JSON file for the results."""

    profile: Path | None = None
    """A picture (.png) of what the host and the devices do during an epoch. There is one for each configuration; its
    name is added to the file name."""

    def __post_init__(self) -> None:
        """Raise UserError for the first field that cannot be used."""
        least = {"image_size": 32, "batch_size": 1, "images": 5, "rounds": 1, "end_to_end_images": 5}
        for name, value in (least | {"epochs": 1, "seeds": 1}).items():
            if getattr(self, name) < value:
                raise UserError(f"--{name.replace('_', '-')} must be at least {value}, got {getattr(self, name)}")
        if (self.to_mae is None) != (self.data is None):
            raise UserError("--to-mae trains on --data: give both")


def benchmark(config: BenchmarkConfig, log: Log = print) -> Json:
    """Measure all configurations, print a table, and write `config.out`.

    Returns:
        What the JSON file holds. In `rows`, one for each configuration:

        - `step`, `predict` and `epoch` are images per second of jaxage; `cached_*` of jaxage on cached features;
          `torch_*` of torch.
        - `compile_s`: seconds to compile the uncached step and the prediction, without the persistent cache.
        - `gflop`: of the uncached step by plain convolutions, for one image.
        - `share`: which part of `peak_tflops` the uncached step reaches. The peak is that of a large matrix product.
        - `step_bytes`: memory of the step besides the images.
        - `difference`: the largest difference in years between predictions on this device and on the CPU in float32.

        A row that needs too much memory has `error` instead. `end_to_end` has the seconds of whole processes (see
        `end_to_end`), and `to_mae` the seconds to a validation error (see `to_mae`), which replaces the rates.

    Raises:
        UserError: for a configuration that is not a model, unknown layers, a batch size that does not fit the devices,
            and (DataError, WeightsError) data and weights that cannot be used.
    """
    # JAX would take three quarters of a GPU's memory at once, and leave too little to torch and to other processes
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    models = [parse_model(text) for text in config.configurations]
    cases = [Case(model.arch, model.trainable, config.batch_size, config.dtype) for model in models]
    for case in cases:  # refused before anything is measured
        sizes = TrainConfig(batch_size=config.batch_size, image_size=config.image_size)
        check_settings(replace(sizes, arch=case.arch, trainable=case.trainable, weights=RANDOM))
    with_torch = torch_available()
    log("compared with torch" if with_torch else "torch or torchvision cannot be imported: jaxage only")
    processes = _time_processes(config, cases, with_torch, log)
    mesh = mesh_for(config.batch_size)
    log(f"{mesh.size} x {mesh.devices.flat[0].device_kind}, JAX {jax.__version__}")
    result: Json = {
        "settings": asdict(config) | {name: str(getattr(config, name)) for name in ("out", "profile", "data")},
        "environment": environment(),
        **processes,
    }
    if config.to_mae is None:
        peak = _peak(mesh, config.dtype)
        result |= {"peak_tflops": peak / 1e12, "rows": _measure_all(config, cases, peak, with_torch, log)}
    write_json(config.out, result)
    return result


def _time_processes(config: BenchmarkConfig, cases: list[Case], with_torch: bool, log: Log) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {"end_to_end": [], "to_mae": []}
    if config.end_to_end_epochs:
        files = random_dataset(config.end_to_end_images, config.image_size)
        log(f"from files to test metrics, {config.end_to_end_epochs} epochs: first run, second run, torch's usual loop")
        for case in cases:
            found["end_to_end"].append(end_to_end(case, files, config.end_to_end_epochs, with_torch=with_torch))
            log("  ".join(f"{key} {value}" for key, value in found["end_to_end"][-1].items()))
    if config.to_mae is not None and config.data is not None:
        log(f"from launch to a validation MAE of {config.to_mae:g}: first run, second run, torch's usual loop")
        with tempfile.TemporaryDirectory(prefix="jaxage-benchmark-") as folder:
            table = copy_faces(config.data, Path(folder))
            race = Race(table, config.to_mae, config.image_size, config.epochs, config.seeds, config.weights)
            for case in cases:
                found["to_mae"].append(to_mae(case, race, with_torch=with_torch))
                log("  ".join(f"{key} {value}" for key, value in found["to_mae"][-1].items()))
    return found


def _measure_all(config: BenchmarkConfig, cases: list[Case], peak: float, with_torch: bool, log: Log) -> list[Json]:
    """A row for each case. One that needs too much memory has its error instead, and the others go on."""
    data, rows = random_dataset(config.images, config.image_size), []
    log(_HEADER)
    with _no_compilation_cache():
        for case in cases:
            try:
                rows.append(_measure(config, case, data, peak, with_torch))
                log(_line(rows[-1]))
            except RuntimeError as error:
                if not re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE):
                    raise
                reason = str(error).strip().splitlines()[0]
                rows.append({"arch": case.arch, "trainable": case.trainable, "error": reason})
                log(f"{case.arch} {case.trainable}: too large for the device at this --batch-size: {reason}")
    return rows


def _measure(config: BenchmarkConfig, case: Case, data: Dataset, peak: float, with_torch: bool) -> Json:
    plain = JaxageWorkload(case, data, "off")
    work = {"step": plain.train, "predict": plain.predict, "epoch": plain.epoch}
    if plain.start != plain.model.spec.units[0]:
        cached = JaxageWorkload(case, data, "device")
        work |= {"cached_step": cached.train, "cached_predict": cached.predict, "cached_epoch": cached.epoch}
    if with_torch:
        torch = TorchWorkload(case, data, compiled=config.compile_torch)
        work |= {"torch_step": torch.train, "torch_predict": torch.predict, "torch_epoch": torch.epoch}
    difference = plain.difference()
    if config.profile:
        picture = config.profile.with_stem(f"{config.profile.stem}-{case.arch}-{case.trainable.replace(',', '+')}")
        timeline(picture, record(plain.epoch), f"an epoch of {case.arch} {case.trainable}")
    on_cpu = plain.mesh.devices.flat[0].platform == "cpu"
    rates = _alternate(work, config.rounds, _SECONDS if on_cpu else _SECONDS_ON_GPU)
    return {
        "arch": case.arch,
        "trainable": case.trainable,
        "difference": difference,
        "compile_s": plain.compile_s,
        "gflop": plain.flops / 1e9,
        "share": plain.flops * rates["step"] / peak,
        "step_bytes": plain.step_bytes,
        **rates,
    }


def _alternate(work: dict[str, Callable[[], int]], rounds: int, seconds: float) -> dict[str, float]:
    """The median rate of each function in images per second. A function returns how many images it has processed.

    The functions are measured in turns, so that changes of the machine's speed affect all of them. There is a pause
    before each measurement, because torch's threads stay busy for a moment, and one call that is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            time.sleep(_PAUSE)
            run()
            images, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds or not images:
                images += run()
            found[name].append(images / elapsed)
    return {name: statistics.median(rates) for name, rates in found.items()}


def _peak(mesh: Mesh, dtype: Dtype) -> float:
    """FLOP per second of a large matrix product on all devices, the best of several."""
    n = 1536 if mesh.devices.flat[0].platform == "cpu" else 8192
    shape = (mesh.size, n, n)
    a = jax.jit(lambda: jnp.ones(shape, dtype), out_shardings=along_batch(mesh))()
    product = jax.jit(lambda a: jnp.einsum("dij,djk->dik", a, a) / n, out_shardings=along_batch(mesh))
    times = []
    for _ in range(10):
        started = time.perf_counter()
        a = product(a).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * mesh.size * n**3 / min(times)


_COLUMNS = ("step", "cached_step", "torch_step", "predict", "torch_predict", "epoch", "cached_epoch", "torch_epoch")
_HEADER = (
    f"{'images/s':<46}"
    + "".join(f"{name.replace('_', ' '):>14}" for name in _COLUMNS)
    + (f"{'compile s':>11}{'GFLOP':>8}{'of peak':>9}{'step GiB':>10}")
)


def _line(row: Json) -> str:
    rates = "".join(f"{row[name]:>14,.1f}" if name in row else f"{'-':>14}" for name in _COLUMNS)
    facts = f"{row['compile_s']:>11.1f}{row['gflop']:>8.2f}{row['share']:>9.0%}{row['step_bytes'] / 2**30:>10.2f}"
    return f"{row['arch'] + ' ' + row['trainable']:<46}{rates}{facts}"


@contextmanager
def _no_compilation_cache() -> Iterator[None]:
    """Turn off JAX's persistent compilation cache, so that compile times are real."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # JAX decides only once whether to use it
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()
