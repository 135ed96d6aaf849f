"""What every test runs under: two devices, no silent broadcasting between ranks, nothing compiled twice."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jaxtyping
import pytest

_COMPILED = tempfile.TemporaryDirectory(prefix="jaxage-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)  # child processes read it too
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # else they would begin twice
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # LLVM's share of compiling is half

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """The network "tiny" is among `MODELS` for a file of tests."""
    from jaxage.models.registry import MODELS
    from tests.tiny import TINY

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TINY)
        yield


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """JAXAGE_CACHE is an empty folder for a file of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXAGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_framing() -> Iterator[None]:
    """Training does not look for faces in its crops: that takes seconds. Tests of it call `framing_of`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxage.commands.train.try_framing", lambda dataset, log: None)
        yield


@pytest.fixture(scope="session")
def network() -> Any:
    """The face detector's network, downloaded once; a skip where it cannot be had."""
    from jaxage.photos.detector import open_network
    from jaxage.types import WeightsUnavailableError

    try:
        return open_network()
    except WeightsUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_type_checker() -> Iterator[None]:
    """As outside the tests: only the code's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
