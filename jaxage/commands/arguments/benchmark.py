"""The arguments of `jaxage benchmark`."""

from typing import Annotated

import tyro

from jaxage.commands.benchmark.run import BenchmarkConfig
from jaxage.commands.benchmark.run import benchmark as run_benchmark
from jaxage.utils.runtime import prepare_jax


def benchmark(config: Annotated[BenchmarkConfig, tyro.conf.arg(name="")]) -> None:
    """Measure how fast this machine trains, beside torch where it is installed."""
    prepare_jax(config.image_size)
    run_benchmark(config)
