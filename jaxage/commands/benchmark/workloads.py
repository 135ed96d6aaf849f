"""Benchmark workloads: jaxage and its torch equivalent.

Each method does a piece of work, waits until it is done, and returns the number of images.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxage.commands.benchmark.abstract import Case, abstract_programs
from jaxage.commands.benchmark.torch_baseline import TorchModel
from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset
from jaxage.data.loader import DataLoader
from jaxage.data.records import make_records
from jaxage.data.sampler import epoch_batches
from jaxage.models.registry import create_model
from jaxage.training.build import build
from jaxage.training.export import ModelConfig
from jaxage.training.inputs import from_images
from jaxage.training.loop import predict_at
from jaxage.training.predictor import predict_rows
from jaxage.training.setup import InitialModel, check_settings
from jaxage.training.step import make_predict_step
from jaxage.types import CacheFeatures, Rows
from jaxage.utils.sharding import block_if_multi_cpu, make_mesh, replicate, replicated

_COMPARED = 32
"""Images whose predictions are compared with the CPU's."""


def random_dataset(n: int, size: int) -> Dataset:
    """`n` random images, 60 % for training and 20 % for validation. The speed does not depend on what they show."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (n, size, size, 3), np.uint8)
    splits = np.repeat(["train", "validation", "test"], [n - 2 * (n // 5), n // 5, n // 5])
    records = make_records([f"{i:06}.jpg" for i in range(n)], draw.uniform(0, 100, n).tolist(), split=splits.tolist())
    return Dataset("random images", records, images, (), "random images", "given")


class JaxageWorkload:
    """A training run of jaxage without mirrored images. Its state is kept from call to call.

    start: The first trainable unit.
    mesh: The devices.
    compile_s: Seconds of compiling.
    flops: Of the training step from images, per image, by plain convolutions, whatever form is faster here. Compiled
        programs do not count what cuDNN does, nor loops more than once.
    step_bytes: XLA's temporary arrays of the training step, per device.
    """

    def __init__(self, case: Case, data: Dataset, cache_features: CacheFeatures) -> None:
        size = data.images.shape[1]
        config = TrainConfig(
            arch=case.arch,
            trainable=case.trainable,
            weights="random",
            image_size=size,
            loss="l1",
            epochs=1,
            batch_size=case.batch_size,
            views=1,
            cache_features=cache_features,
            dtype=case.dtype,
            flip=False,
        )
        self._data, self._batch = data, case.batch_size
        self._config = ModelConfig(case.arch, "l1", size, 40.0, 20.0, dtype=case.dtype)
        self.model = self._config.model()
        self._variables = self.model.init(jax.random.key(0))
        setup = check_settings(config)
        built = build(config, setup, data, InitialModel(self._config, self._variables, {}), lambda _: None)
        self._program, self._state = built.program, built.state
        self.start, self.compile_s = setup.plan.first_block, built.timing["compile_s"]
        inputs, mesh = self._program.inputs, self._program.mesh
        self._epoch = jax.device_put(epoch_batches(inputs.view_rows, 0, 1, self._batch), replicated(mesh))
        self._train_steps = self._program.phases[0].train_steps
        self._count = max(self._train_steps)
        self.mesh = mesh
        step, arguments = abstract_programs(case, size, mesh, "xla")["step"]
        lowered: Any = step.lower(*arguments)
        self.flops = lowered.cost_analysis()["flops"] / self._batch
        compiled: Any = self._train_steps[self._count]
        self.step_bytes = compiled.memory_analysis().temp_size_in_bytes

    def train(self) -> int:
        """One dispatch of training steps."""
        self._steps(1)
        return self._count * self._batch

    def predict(self) -> int:
        """One batch of the size that a run predicts at once."""
        rows = np.resize(np.arange(len(self._data.records)), self._program.predict_batch)
        predict_at(self._program, self._state.average, rows)
        return len(rows)

    def epoch(self) -> int:
        """All training images, then the validation split."""
        self._steps(len(self._epoch.rows) // self._count)
        rows = self._data.records.rows_of("validation")
        predict_at(self._program, self._state.average, rows)
        return len(self._program.inputs.view_rows) + len(rows)

    def difference(self) -> float:
        """The largest difference in years from predictions on the CPU in float32, with the initial weights."""
        rows = np.resize(np.arange(len(self._data.records)), min(self._batch, _COMPARED))
        here = predict_at(self._program, self._state.average, rows).age
        exact = replace(self._config, dtype="float32")
        model = create_model(exact.arch, outputs=exact.objective().outputs, conv_form="cpu")
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            mesh = make_mesh(jax.local_devices(backend="cpu")[:1])
            input_fn = from_images(model, (exact.mean, exact.std))
            predict = make_predict_step(model, exact.objective(), input_fn, mesh, resident=False)
            loader = DataLoader(self._data.images, self._data.records.age, mesh)
            there = predict_rows(predict, replicate(self._variables, mesh), loader, rows[:, None], len(rows)).age
        return float(np.abs(here - there).max())

    def _steps(self, calls: int) -> None:
        loader = self._program.inputs.loader
        for _ in range(calls):
            self._state, flag = self._train_steps[self._count](self._state, loader.items, loader.ages, self._epoch)
            block_if_multi_cpu(flag)
        jax.block_until_ready(self._state)


class TorchWorkload:
    """The same work in torch."""

    def __init__(self, case: Case, data: Dataset, *, compiled: bool) -> None:
        images, ages = np.asarray(data.images), data.records.age
        self._torch = TorchModel(case.arch, case.trainable, images, ages, case.dtype, compiled=compiled)
        self._batch = case.batch_size
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

    def _run(self, function: Callable[[Rows], object], rows: Rows) -> int:
        for start in range(0, len(rows), self._batch):
            function(rows[start : start + self._batch])
        self._torch.wait()
        return len(rows)
