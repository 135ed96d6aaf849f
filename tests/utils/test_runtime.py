"""In processes of their own, because JAX is told before it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import json, os, sys
from pathlib import Path
if os.environ.get("AS_ON_MACOS"):
    for name in ("sched_getaffinity", "posix_fallocate", "sched_setaffinity"):
        delattr(os, name)
import jax
from jaxage.utils.runtime import prepare_jax
misses = []
jax.monitoring.register_event_listener(lambda event, **_: misses.append(event) if "cache_misses" in event else None)
prepare_jax(json.loads(sys.argv[1]))
from jaxage import MODELS, TrainConfig, train
from tests.tiny import TINY
MODELS["tiny"] = TINY
if len(sys.argv) > 2:
    train(TrainConfig(arch="tiny", data=Path(sys.argv[2]), out=Path(sys.argv[3]), trainable="fc", weights="random",
                      image_size=32, epochs=1, batch_size=12, cache_features="disk"), log=lambda _: None)
print(json.dumps({"devices": jax.device_count(), "misses": len(misses), "cache": jax.config.jax_compilation_cache_dir}))
"""


def start(*arguments: str, pixels: str = "null", **environment: str) -> dict[str, object]:
    names = ("JAX_", "XLA_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    process = subprocess.run(
        [sys.executable, "-c", CODE, pixels, *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, object] = json.loads(process.stdout.splitlines()[-1])
    return found


def test_a_device_for_each_core_and_programs_in_the_cache_folder(tmp_path: Path) -> None:
    found = start(JAXAGE_CACHE=str(tmp_path))
    assert found["devices"] == len(os.sched_getaffinity(0))
    assert found["cache"] == str(tmp_path / "compiled")
    for pixels, devices in (("224", len(os.sched_getaffinity(0))), ("64", 1)):
        assert start(pixels=pixels, JAXAGE_CACHE=str(tmp_path))["devices"] == devices


@pytest.mark.parametrize(
    "environment", [{"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}]
)
def test_what_the_user_set_stays(environment: dict[str, str], tmp_path: Path) -> None:
    found = start(
        pixels="64", JAXAGE_CACHE=str(tmp_path), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"), **environment
    )
    assert found["devices"] == 3
    assert found["cache"] == str(tmp_path / "mine")


def test_the_second_start_compiles_nothing_also_without_what_linux_alone_has(tmp_path: Path) -> None:
    from tests.faces import write_faces

    faces, cache = write_faces(tmp_path / "data"), str(tmp_path)
    first = start(str(faces), str(tmp_path / "first"), JAXAGE_CACHE=cache, AS_ON_MACOS="1")
    second = start(str(faces), str(tmp_path / "second"), JAXAGE_CACHE=cache)
    assert isinstance(first["misses"], int)
    assert first["misses"] > 10
    assert second["misses"] == 0
