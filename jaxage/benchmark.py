"""How fast jaxage is on this machine, beside torch where it is installed: the same work, in one run, in turns."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.sharding import Mesh
from jax.stages import Compiled
from PIL import Image

from jaxage.assemble import assemble
from jaxage.config import TrainConfig
from jaxage.data.records import make_records
from jaxage.data.store import Dataset
from jaxage.evaluate import predict_rows
from jaxage.export import Contract
from jaxage.feed import Feed, dispatches
from jaxage.freeze import parse_trainable
from jaxage.mesh import along_batch, in_turn, make_mesh, mesh_for, replicate, replicated
from jaxage.order import epoch_order
from jaxage.profiler import record
from jaxage.report.plots import timeline
from jaxage.rivals import Torch, available
from jaxage.run import environment, write_json
from jaxage.sources import from_images
from jaxage.steps import make_predict_step
from jaxage.types import Arch, CacheFeatures, Dtype, UserError

CONFIGURATIONS = (
    "mobilenet_v2:classifier",
    "mobilenet_v2:all",
    "resnet18:fc",
    "resnet18:fc,layer4",
    "resnet18:fc,layer4,layer3",
    "resnet18:fc,layer4,layer3,layer2",
    "resnet18:fc,layer4,layer3,layer2,layer1",
    "resnet18:all",
)
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


def benchmark(config: BenchmarkConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure, print a table, and write `config.out`; gives back what that holds.

    Rates are images a second. `step`, `cached_step`, `predict` and `epoch` are jaxage's, `torch_*` torch's; `compile_s`
    is of the uncached step and of prediction, without the persistent cache; `gflop` is for one image of the uncached
    step, `share` how much of the device's `peak_tflops` (a large matrix product, measured) it comes to; `step_bytes` is
    what the step needs beside the images; `difference` is the largest between predictions of this device and of the
    CPU in float32, in years.
    """
    chosen = [_parse(text) for text in config.configurations]
    mesh, rivals = mesh_for(config.batch_size), available()
    say(f"{mesh.size} x {mesh.devices.flat[0].device_kind}, JAX {jax.__version__}")
    say("torch beside it" if rivals else "torch and torchvision cannot be imported: jaxage alone")
    data, peak = _images(config.images, config.image_size), _peak(mesh, config.dtype)
    rows, launches = [], []
    say(_HEADER)
    with _every_program_compiled():
        for arch, trainable in chosen:
            rows.append(_measure(config, arch, trainable, data, peak, rivals))
            say(_line(rows[-1]))
    if config.launch_epochs:
        say(f"from files to test metrics, {config.launch_epochs} epochs: first and second start, torch's usual loop")
        for arch, trainable in chosen:
            launches.append(_launch(config, arch, trainable, rivals))
            say("  ".join(f"{key} {value}" for key, value in launches[-1].items()))
    result = {
        "settings": asdict(config) | {"out": str(config.out), "profile": str(config.profile)},
        "environment": environment(),
        "peak_tflops": peak / 1e12,
        "rows": rows,
        "launches": launches,
    }
    write_json(config.out, result)
    return result


def _parse(text: str) -> tuple[Arch, str]:
    arch, _, trainable = text.partition(":")
    if arch not in get_args(Arch) or not trainable:
        raise UserError(f"--configurations: {text!r} is none; write NETWORK:LAYERS, such as resnet18:fc,layer4")
    return cast(Arch, arch), trainable


def _images(n: int, size: int) -> Dataset:
    """Noise: the speed does not depend on what images show."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (n, size, size, 3), np.uint8)
    splits = np.repeat(["train", "validation", "test"], [n - 2 * (n // 5), n // 5, n // 5])
    records = make_records([f"{i:06}.jpg" for i in range(n)], draw.uniform(0, 100, n).tolist(), split=splits.tolist())
    return Dataset("noise", records, images, (), "noise", "given")


def _measure(
    config: BenchmarkConfig, arch: Arch, trainable: str, data: Dataset, peak: float, rivals: bool
) -> dict[str, Any]:
    ours = _Ours(config, arch, trainable, data, "off")
    contestants = {"step": ours.train, "predict": ours.predict, "epoch": ours.epoch}
    if ours.start != ours.model.spec.units[0]:
        cached = _Ours(config, arch, trainable, data, "device")
        contestants |= {"cached_step": cached.train, "cached_predict": cached.predict, "cached_epoch": cached.epoch}
    if rivals:
        torch = _Theirs(config, arch, trainable, data)
        contestants |= {"torch_step": torch.train, "torch_predict": torch.predict, "torch_epoch": torch.epoch}
    difference = ours.difference()
    if config.profile:
        picture = config.profile.with_stem(f"{config.profile.stem}-{arch}-{trainable.replace(',', '+')}")
        timeline(picture, record(ours.epoch), f"an epoch of {arch} {trainable}")
    return {
        "arch": arch,
        "trainable": trainable,
        "difference": difference,
        "compile_s": ours.compile_s,
        "gflop": ours.flops / 1e9,
        "share": ours.flops * (rates := _in_turns(contestants, config.rounds))["step"] / peak,
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


class _Ours:
    """A job of jaxage, assembled as for a run but without augmentation; its state goes on from call to call."""

    def __init__(
        self, config: BenchmarkConfig, arch: Arch, trainable: str, data: Dataset, cache_features: CacheFeatures
    ) -> None:
        settings = TrainConfig(
            arch=arch,
            trainable=trainable,
            loss="l1",
            epochs=1,
            batch_size=config.batch_size,
            augment=False,
            cache_features=cache_features,
            dtype=config.dtype,
        )
        self._data, self._batch = data, config.batch_size
        self._contract = Contract(arch, "l1", config.image_size, 40.0, 20.0, config.dtype)
        self.model = self._contract.model()
        self._variables = self.model.init(jax.random.key(0))
        groups = parse_trainable(trainable, self._variables["params"])
        job, self._state, facts = assemble(
            settings, Path(), data, self._contract, self._variables, groups, time.perf_counter(), lambda _: None
        )
        self._job = job
        self.start = job.learning.source.start
        self.compile_s = facts["timing"]["compile_s"]
        self._order = jax.device_put(epoch_order(job.learning.slots, 0, 1, self._batch), replicated(job.mesh))
        self._count = max(job.train_steps)
        one: Any = job.train_steps[1]
        arguments = next(dispatches(job.learning.feed, self._order, 0, 1))
        compiled: Any = one if isinstance(one, Compiled) else one.lower(self._state, *arguments).compile()
        self.flops = compiled.cost_analysis()["flops"] * job.mesh.size / self._batch
        self.step_bytes = compiled.memory_analysis().temp_size_in_bytes

    def train(self) -> int:
        """One dispatch."""
        self._steps(1)
        return self._count * self._batch

    def predict(self) -> int:
        """One batch, or as many as a run predicts at once."""
        rows = np.resize(np.arange(len(self._data.records)), self._job.predict_batch)
        predict_rows(self._job.predict_step, self._state.average, self._job.learning.feed, rows, len(rows))
        return len(rows)

    def epoch(self) -> int:
        """All training images, then the validation split."""
        self._steps(len(self._order.rows) // self._count)
        rows = self._data.records.rows_of("validation")
        predict_rows(
            self._job.predict_step, self._state.average, self._job.learning.feed, rows, self._job.predict_batch
        )
        return len(self._job.learning.slots) + len(rows)

    def difference(self) -> float:
        """Between predictions of a batch on this device and on the CPU in float32, with the first weights, in years."""
        rows = np.arange(self._batch)
        here = predict_rows(self._job.predict_step, self._state.average, self._job.learning.feed, rows, self._batch)
        exact = replace(self._contract, dtype="float32")
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            mesh = make_mesh(jax.local_devices(backend="cpu")[:1])
            source = from_images(exact.model(), (exact.mean, exact.std))
            predict = make_predict_step(exact.model(), exact.objective(), source, mesh)
            feed = Feed(self._data.images, self._data.records.age, mesh)
            there = predict_rows(predict, replicate(self._variables, mesh), feed, rows, self._batch)
        return float(np.abs(here - there).max())

    def _steps(self, dispatched: int) -> None:
        feed = self._job.learning.feed
        for _ in range(dispatched):
            self._state, flag = self._job.train_steps[self._count](self._state, feed.items, feed.ages, self._order)
            in_turn(flag)
        jax.block_until_ready(self._state)


class _Theirs:
    """The same in torch."""

    def __init__(self, config: BenchmarkConfig, arch: Arch, trainable: str, data: Dataset) -> None:
        self._torch = Torch(arch, trainable, data.images, data.records.age, config.dtype, compiled=config.compile_torch)
        self._batch = config.batch_size
        self._parts = [data.records.rows_of(split) for split in ("train", "validation")]

    def train(self) -> int:
        """One step."""
        return self._run(self._torch.train, np.resize(self._parts[0], self._batch))

    def predict(self) -> int:
        """One batch."""
        return self._run(self._torch.predict, np.resize(self._parts[1], self._batch))

    def epoch(self) -> int:
        """All training images, then the validation split."""
        return self._run(self._torch.train, self._parts[0]) + self._run(self._torch.predict, self._parts[1])

    def _run(self, function: Callable[[np.ndarray], object], rows: np.ndarray) -> int:
        for start in range(0, len(rows), self._batch):
            function(rows[start : start + self._batch])
        self._torch.wait()
        return len(rows)


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


def _launch(config: BenchmarkConfig, arch: Arch, trainable: str, rivals: bool) -> dict[str, Any]:
    """Seconds of whole processes: with nothing kept before, once more, and torch's usual loop."""
    epochs, size, batch = config.launch_epochs, config.image_size, config.batch_size
    with tempfile.TemporaryDirectory(prefix="jaxage-benchmark-") as name:
        folder = Path(name)
        table = _write_files(folder, _images(config.launch_images, size))
        settings = {
            "arch": arch, "trainable": trainable, "weights": "random", "data": table, "image_size": size,
            "epochs": epochs, "batch_size": batch, "dtype": config.dtype,
        }  # fmt: skip
        options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        ours = [sys.executable, "-m", "jaxage.cli", "train", *options]
        theirs = [sys.executable, "-m", "jaxage.rivals", str(table), arch, trainable, *map(str, (size, batch, epochs))]
        variables = dict(os.environ) | {"JAXAGE_CACHE": str(folder / "cache")}
        runs = {"first": [*ours, f"--out={folder / 'first'}"], "second": [*ours, f"--out={folder / 'second'}"]}
        if rivals:
            runs["torch"] = theirs
        found: dict[str, Any] = {"arch": arch, "trainable": trainable, "images": config.launch_images}
        for key, command in runs.items():
            found[f"{key}_s"] = round(_run_process(command, variables, folder / "output.txt"), 2)
    return found


def _run_process(command: list[str], variables: dict[str, str], output: Path) -> float:
    """Seconds that a process takes. Raises RuntimeError with the end of its output if it fails."""
    started = time.perf_counter()
    with output.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, env=variables, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output.read_text(encoding='utf-8')[-3000:]}")
    return time.perf_counter() - started


def _write_files(folder: Path, data: Dataset) -> Path:
    """The images as JPEG files, and a CSV of them."""
    table = folder / "faces.csv"
    columns = data.records.path, data.records.age, data.records.split
    lines = [f"{path},{age:.1f},{split}" for path, age, split in zip(*columns, strict=True)]
    table.write_text("path,age,split\n" + "\n".join(lines) + "\n", encoding="utf-8")
    for path, pixels in zip(data.records.path, data.images, strict=True):
        Image.fromarray(pixels).save(folder / path, quality=90)
    return table


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
