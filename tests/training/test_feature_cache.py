import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxage.data.augment import normalize, to_unit, view
from jaxage.data.loader import DataLoader, make_loader
from jaxage.models.registry import create_model
from jaxage.training.feature_cache import (
    FrozenTrunk,
    allocate,
    compute_cached,
    feature_key,
    open_cached,
    run_trunk,
    run_trunk_on_devices,
)
from jaxage.training.view_index import ViewIndex
from jaxage.types import InputContract
from jaxage.utils.sharding import along_items, make_mesh, replicate
from tests.tiny import tiny_model

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
AGES = RNG.uniform(0, 100, 70).astype(np.float32)
TRAIN = np.arange(5, 45)
CHANNELS = ((0.5,) * 3, (0.25,) * 3)


def trunk(mesh: Mesh | None = None, budget: float = np.inf, **changes: Any) -> FrozenTrunk:
    mesh = mesh or make_mesh()
    model = tiny_model()
    given = {
        "model": model,
        "variables": replicate(model.init(jax.random.key(0)), mesh),
        "contract": InputContract(*CHANNELS),
        "start": "layer4",
        "loader": make_loader(IMAGES, AGES, mesh, budget),
        "data_sha256": "data",
        "kinds": 3,
        "seed": 0,
    }
    return FrozenTrunk(**(given | changes))


def view_index(views: int = 3, flip: bool = False, rows: np.ndarray = TRAIN) -> ViewIndex:
    return ViewIndex(len(IMAGES), rows, views, flip)


def computed(t: FrozenTrunk, index: ViewIndex) -> np.ndarray:
    out = allocate(t, len(index))
    out[:] = np.nan
    run_trunk(t, index, out)
    return out


@pytest.mark.parametrize("budget", [np.inf, 0.0], ids=["resident", "streamed"])
@pytest.mark.parametrize("devices", [1, 2])
def test_every_view_of_every_image_is_where_the_index_says(devices: int, budget: float) -> None:
    t, index = trunk(make_mesh(jax.devices()[:devices]), budget), view_index()
    out = computed(t, index)
    assert out.shape == (len(index), 8, 8, 4)
    assert t.nbytes(len(index)) == out.nbytes

    def expected(images: Any) -> Any:
        return t.model.features(t.variables, normalize(images, *CHANNELS), "layer4")

    there = run_trunk_on_devices(t, index)
    assert there.sharding == along_items(t.loader.mesh)
    np.testing.assert_array_equal(there[: len(index)], out)
    units = to_unit(jnp.asarray(IMAGES))
    np.testing.assert_allclose(out[:70], expected(units), rtol=1e-5, atol=1e-5)
    for which in range(3):
        view_ids = jnp.arange(40) * 3 + which
        views = view(jax.random.key(0), units[TRAIN], view_ids, 3)
        np.testing.assert_allclose(out[index.view_rows[:, which]], expected(views), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_mirrors_of_what_is_tested_are_where_the_index_says(views: int) -> None:
    index, plain = view_index(views, flip=True), view_index(views)
    t = trunk(kinds=index.kinds)
    out = computed(t, index)
    np.testing.assert_array_equal(out[: len(plain)], computed(trunk(kinds=plain.kinds), plain))
    turned = t.model.features(t.variables, normalize(to_unit(jnp.asarray(IMAGES[:, :, ::-1])), *CHANNELS), "layer4")
    tested = np.setdiff1d(np.arange(70), TRAIN)
    np.testing.assert_allclose(out[index.eval_rows[tested, 1]], turned[tested], rtol=1e-5, atol=1e-5)


def test_the_key_knows_all_that_features_depend_on() -> None:
    t, index = trunk(), view_index()
    changed = jax.tree.map(lambda leaf: leaf, t.variables)
    changed["params"]["conv1"]["kernel"] = changed["params"]["conv1"]["kernel"].at[0, 0, 0, 0].add(1)
    others = {"variables": changed, "start": "avgpool", "seed": 1, "data_sha256": "other"}
    others |= {"loader": DataLoader(IMAGES[:, ::2], AGES, make_mesh())}
    keys = [feature_key(t, index)]
    changes = ({"mean": (0.4,) * 3}, {"std": (0.4,) * 3}, {"interpolation": "bicubic"}, {"crop": 0.875})
    keys += [feature_key(replace(t, contract=t.contract._replace(**change)), index) for change in changes]
    keys += [feature_key(replace(t, **{name: value}), index) for name, value in others.items()]
    keys += [feature_key(t, other) for other in (view_index(2), view_index(flip=True), view_index(rows=TRAIN[:-1]))]
    assert len(set(keys)) == len(keys) == 13
    above = jax.tree.map(lambda leaf: leaf, t.variables)
    above["params"]["fc"]["bias"] = above["params"]["fc"]["bias"] + 1
    assert feature_key(replace(t, variables=above), index) == keys[0]
    assert feature_key(trunk(make_mesh(jax.devices()[:1]), 0.0), index) == keys[0]


def test_a_file_is_found_again_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    t, index, path = trunk(), view_index(), tmp_path / "features.npy"
    assert open_cached(t, index, path) is None
    stored = compute_cached(t, index, path)
    np.testing.assert_array_equal(stored, computed(t, index))
    again = open_cached(t, index, path)
    assert again is not None
    np.testing.assert_array_equal(again, stored)
    assert open_cached(t, view_index(2), path) is None
    os.truncate(path, path.stat().st_size - 1)
    assert open_cached(t, index, path) is None
    path.write_bytes(b"")
    assert open_cached(t, index, path) is None
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


def test_bfloat16_is_stored_as_it_is(tmp_path: Path) -> None:
    mesh = make_mesh()
    model = create_model("resnet18", dtype="bfloat16")
    variables = replicate(model.init(jax.random.key(0)), mesh)
    small = make_loader(RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), AGES[:6], mesh, np.inf)
    t = trunk(model=model, variables=variables, loader=small, start="layer2.0", kinds=1)
    assert t.feature.dtype == jnp.bfloat16
    stored = compute_cached(t, ViewIndex(6, TRAIN[:0], 1, False), tmp_path / "features.npy")
    assert stored.dtype == jnp.bfloat16
    assert np.isfinite(stored.astype(np.float32)).all()
    assert replace(t, start="fc").feature.dtype == jnp.float32


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxage.training.feature_cache.reserve_space", full)
    with pytest.raises(OSError, match="No space left"):
        compute_cached(trunk(), view_index(), tmp_path / "features.npy")
    assert not list(tmp_path.iterdir())


def test_what_is_killed_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    code = (
        "import os, signal, pathlib, sys, jaxage.training.feature_cache as f\n"
        "from tests.training.test_feature_cache import trunk, view_index\n"
        "run = f.run_trunk\n"
        "f.run_trunk = lambda t, i, out: (run(t, i, out), out.flush(), os.kill(os.getpid(), signal.SIGKILL))\n"
        "f.compute_cached(trunk(), view_index(), pathlib.Path(sys.argv[1]))"
    )
    path = tmp_path / "features.npy"
    process = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert open_cached(trunk(), view_index(), path) is None
    assert not path.exists()
