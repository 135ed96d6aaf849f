"""How fast jaxage is on this machine, beside torch where it is installed: the same work, in one run, in turns."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.sharding import Mesh

from jaxage.commands.benchmark.end_to_end import launch
from jaxage.commands.benchmark.profiler import record
from jaxage.commands.benchmark.torch_baseline import available
from jaxage.commands.benchmark.workloads import JaxageWorkload, TorchWorkload, noise
from jaxage.commands.study.recipes import REPORT_MODELS, parse_model
from jaxage.data.dataset import Dataset
from jaxage.report.plots import timeline
from jaxage.training.run_folder import environment
from jaxage.types import Arch, Dtype, Log
from jaxage.utils.files import write_json
from jaxage.utils.sharding import along_batch, mesh_for

CONFIGURATIONS = (*(spec.name for spec in REPORT_MODELS), "resnet18:all")
_SECONDS, _PAUSE = 1.0, 0.3


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure train steps, prediction and epochs of the report's configurations, beside torch where it is installed."""

    configurations: tuple[str, ...] = CONFIGURATIONS
    """Networks and what learns, such as "resnet18:fc,layer4"."""

    image_size: int = 224
    """Height and width in pixels."""

    batch_size: int = 32
    """Images per step."""

    images: int = 320
    """How many images an epoch goes over, 60 % of them to train and 20 % to validate."""

    rounds: int = 5
    """How often each is measured, in turns; medians are reported."""

    dtype: Dtype = "float32"
    """What the trunk computes in, in jaxage and in torch."""

    compile_torch: bool = False
    """Measure torch.compile instead of plain torch."""

    launch_epochs: int = 0
    """Also run whole fine-tunings of that many epochs, each in a process of its own, from files to test metrics, and
    torch's usual loop beside them; 0 leaves it out."""

    launch_images: int = 2000
    """How many images those have."""

    out: Path = Path("benchmark.json")
    """The file for all that was measured."""

    profile: Path | None = None
    """A picture (.png) to draw of what the devices and the host do in an epoch of each configuration; its name follows
    each."""


def benchmark(config: BenchmarkConfig, log: Log = print) -> dict[str, Any]:
    """Measure, print a table, and write `config.out`; gives back what that holds.

    Rates are images a second. `step`, `cached_step`, `predict` and `epoch` are jaxage's, `torch_*` torch's; `compile_s`
    is of the uncached step and of prediction, without the persistent cache; `gflop` is for one image of the uncached
    step, `share` how much of the device's `peak_tflops` (a large matrix product, measured) it comes to; `step_bytes` is
    what the step needs beside the images; `difference` is the largest between predictions of this device and of the
    CPU in float32, in years.
    """
    chosen = [(spec.arch, spec.trainable) for spec in map(parse_model, config.configurations)]
    mesh, rivals = mesh_for(config.batch_size), available()
    log(f"{mesh.size} x {mesh.devices.flat[0].device_kind}, JAX {jax.__version__}")
    log("torch beside it" if rivals else "torch and torchvision cannot be imported: jaxage alone")
    data, peak = noise(config.images, config.image_size), _peak(mesh, config.dtype)
    rows, launches = [], []
    log(_HEADER)
    with _every_program_compiled():
        for arch, trainable in chosen:
            rows.append(_measure(config, arch, trainable, data, peak, rivals))
            log(_line(rows[-1]))
    if config.launch_epochs:
        files = noise(config.launch_images, config.image_size)
        log(f"from files to test metrics, {config.launch_epochs} epochs: first and second start, torch's usual loop")
        for arch, trainable in chosen:
            launches.append(
                launch(arch, trainable, files, config.launch_epochs, config.batch_size, config.dtype, rivals=rivals)
            )
            log("  ".join(f"{key} {value}" for key, value in launches[-1].items()))
    result = {
        "settings": asdict(config) | {"out": str(config.out), "profile": str(config.profile)},
        "environment": environment(),
        "peak_tflops": peak / 1e12,
        "rows": rows,
        "launches": launches,
    }
    write_json(config.out, result)
    return result


def _measure(
    config: BenchmarkConfig, arch: Arch, trainable: str, data: Dataset, peak: float, rivals: bool
) -> dict[str, Any]:
    work = arch, trainable, data, config.batch_size, config.dtype
    ours = JaxageWorkload(*work, "off")
    contestants = {"step": ours.train, "predict": ours.predict, "epoch": ours.epoch}
    if ours.start != ours.model.spec.units[0]:
        cached = JaxageWorkload(*work, "device")
        contestants |= {"cached_step": cached.train, "cached_predict": cached.predict, "cached_epoch": cached.epoch}
    if rivals:
        torch = TorchWorkload(*work, compiled=config.compile_torch)
        contestants |= {"torch_step": torch.train, "torch_predict": torch.predict, "torch_epoch": torch.epoch}
    difference = ours.difference()
    if config.profile:
        picture = config.profile.with_stem(f"{config.profile.stem}-{arch}-{trainable.replace(',', '+')}")
        timeline(picture, record(ours.epoch), f"an epoch of {arch} {trainable}")
    rates = _in_turns(contestants, config.rounds)
    return {
        "arch": arch,
        "trainable": trainable,
        "difference": difference,
        "compile_s": ours.compile_s,
        "gflop": ours.flops / 1e9,
        "share": ours.flops * rates["step"] / peak,
        "step_bytes": ours.step_bytes,
        **rates,
    }


def _in_turns(contestants: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """The median of the rates (images a second) of each; a call does its work, waits for it, and says for how many.

    Before each is timed, what came before has a moment to end (torch's threads spin on), and one call is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            time.sleep(_PAUSE)
            run()
            images, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < _SECONDS or not images:
                images += run()
            found[name].append(images / elapsed)
    return {name: statistics.median(rates) for name, rates in found.items()}


def _peak(mesh: Mesh, dtype: Dtype) -> float:
    """FLOP a second of a large matrix product on each device, the best of several."""
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


def _line(row: dict[str, Any]) -> str:
    rates = "".join(f"{row[name]:>14,.1f}" if name in row else f"{'-':>14}" for name in _COLUMNS)
    facts = f"{row['compile_s']:>11.1f}{row['gflop']:>8.2f}{row['share']:>9.0%}{row['step_bytes'] / 2**30:>10.2f}"
    return f"{row['arch'] + ' ' + row['trainable']:<46}{rates}{facts}"


@contextmanager
def _every_program_compiled() -> Iterator[None]:
    """The persistent cache is left aside, so that compile times are of compilations."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # JAX decides once whether it uses it
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        reset_cache()
