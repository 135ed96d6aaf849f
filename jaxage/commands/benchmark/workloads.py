"""Who is measured by the benchmark: a job of jaxage, and the same work in torch. A call does some, and waits for it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.stages import Compiled

from jaxage.commands.benchmark.torch_baseline import Torch
from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset
from jaxage.data.loader import DataLoader, step_batches
from jaxage.data.records import make_records
from jaxage.data.sampler import epoch_batches
from jaxage.models.registry import create_model
from jaxage.training.build import assemble
from jaxage.training.export import ModelConfig
from jaxage.training.freeze import parse_trainable
from jaxage.training.inputs import from_images
from jaxage.training.predictor import predict_rows
from jaxage.training.step import make_predict_step
from jaxage.types import Arch, CacheFeatures, Dtype
from jaxage.utils.sharding import block_if_multi_cpu, make_mesh, replicate, replicated


def noise(n: int, size: int) -> Dataset:
    """`n` images, 60 % of them to train and 20 % to validate: the speed does not depend on what they show."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (n, size, size, 3), np.uint8)
    splits = np.repeat(["train", "validation", "test"], [n - 2 * (n // 5), n // 5, n // 5])
    records = make_records([f"{i:06}.jpg" for i in range(n)], draw.uniform(0, 100, n).tolist(), split=splits.tolist())
    return Dataset("noise", records, images, (), "noise", "given")


class JaxageWorkload:
    """A job of jaxage, assembled as for a run but without mirrors; its state goes on from call to call.

    start: the first unit that learns. compile_s: seconds. flops: of the step, for one image. step_bytes: of XLA's
    temporary arrays on each device.
    """

    def __init__(
        self,
        arch: Arch,
        trainable: str,
        data: Dataset,
        batch_size: int,
        dtype: Dtype,
        cache_features: CacheFeatures,
    ) -> None:
        settings = TrainConfig(
            arch=arch,
            trainable=trainable,
            loss="l1",
            epochs=1,
            batch_size=batch_size,
            views=1,
            cache_features=cache_features,
            dtype=dtype,
            flip=False,
        )
        self._data, self._batch = data, batch_size
        self._contract = ModelConfig(arch, "l1", data.images.shape[1], 40.0, 20.0, dtype=dtype)
        self.model = self._contract.model()
        self._variables = self.model.init(jax.random.key(0))
        groups = parse_trainable(trainable, self._variables["params"])
        job, self._state, facts = assemble(
            settings, Path(), data, self._contract, self._variables, groups, time.perf_counter(), lambda _: None
        )
        self._job = job
        self.start = job.inputs.source.start
        self.compile_s = facts["timing"]["compile_s"]
        self._order = jax.device_put(epoch_batches(job.inputs.view_rows, 0, 1, self._batch), replicated(job.mesh))
        self._train_steps = job.stages[0].train_steps
        self._count = max(self._train_steps)
        one: Any = self._train_steps[1]
        arguments = next(step_batches(job.inputs.loader, self._order, 0, 1, 1))
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
        predict_rows(self._job.predict_step, self._state.average, self._job.inputs.loader, rows[:, None], len(rows))
        return len(rows)

    def epoch(self) -> int:
        """All training images, then the validation split."""
        self._steps(len(self._order.rows) // self._count)
        rows = self._data.records.rows_of("validation")
        predict_rows(
            self._job.predict_step, self._state.average, self._job.inputs.loader, rows[:, None], self._job.predict_batch
        )
        return len(self._job.inputs.view_rows) + len(rows)

    def difference(self) -> float:
        """Between predictions of a batch on this device and on the CPU in float32, with the first weights, in years."""
        rows = np.arange(self._batch)[:, None]
        here = predict_rows(self._job.predict_step, self._state.average, self._job.inputs.loader, rows, self._batch)
        exact = replace(self._contract, dtype="float32")
        model = create_model(exact.arch, outputs=exact.objective().outputs, conv_form="cpu")
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            mesh = make_mesh(jax.local_devices(backend="cpu")[:1])
            source = from_images(model, (exact.mean, exact.std))
            predict = make_predict_step(model, exact.objective(), source, mesh)
            loader = DataLoader(self._data.images, self._data.records.age, mesh)
            there = predict_rows(predict, replicate(self._variables, mesh), loader, rows, self._batch)
        return float(np.abs(here - there).max())

    def _steps(self, dispatched: int) -> None:
        loader = self._job.inputs.loader
        for _ in range(dispatched):
            self._state, flag = self._train_steps[self._count](self._state, loader.items, loader.ages, self._order)
            block_if_multi_cpu(flag)
        jax.block_until_ready(self._state)


class TorchWorkload:
    """The same in torch."""

    def __init__(
        self, arch: Arch, trainable: str, data: Dataset, batch_size: int, dtype: Dtype, *, compiled: bool
    ) -> None:
        self._torch = Torch(arch, trainable, data.images, data.records.age, dtype, compiled=compiled)
        self._batch = batch_size
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
