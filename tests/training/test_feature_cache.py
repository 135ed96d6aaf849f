import math
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
from jaxage.training.feature_cache import Prefix, feature_key, from_store, keep, kept, run_prefix
from jaxage.utils.sharding import make_mesh, replicate
from tests.tiny import tiny_model

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
AGES = RNG.uniform(0, 100, 70).astype(np.float32)
TRAIN = np.arange(5, 45)
CHANNELS = ((0.5,) * 3, (0.25,) * 3)


def prefix(mesh: Mesh | None = None, budget: float = math.inf, **changes: Any) -> Prefix:
    mesh = mesh or make_mesh()
    model = tiny_model()
    given = {
        "model": model,
        "variables": replicate(model.init(jax.random.key(0)), mesh),
        "channels": CHANNELS,
        "start": "layer4",
        "loader": make_loader(IMAGES, AGES, mesh, budget),
        "train_rows": TRAIN,
        "views": 3,
        "flip": False,
        "seed": 0,
    }
    return Prefix(**(given | changes))


def computed(p: Prefix) -> np.ndarray:
    out = np.full(p.shape, np.nan, p.dtype)
    run_prefix(p, out)
    return out


@pytest.mark.parametrize("budget", [math.inf, 0.0], ids=["resident", "streamed"])
@pytest.mark.parametrize("devices", [1, 2])
def test_every_view_of_every_image_is_where_the_slots_say(devices: int, budget: float) -> None:
    p = prefix(make_mesh(jax.devices()[:devices]), budget)
    out = computed(p)
    assert out.shape == p.shape == (70 + 40 * 2, 8, 8, 4)
    assert p.nbytes == out.nbytes

    def expected(images: Any) -> Any:
        return p.model.features(p.variables, normalize(images, *CHANNELS), "layer4")

    units = to_unit(jnp.asarray(IMAGES))
    np.testing.assert_allclose(out[:70], expected(units), rtol=1e-5, atol=1e-5)
    for which in range(3):
        view_ids = jnp.arange(40) * 3 + which
        views = view(jax.random.key(0), units[TRAIN], view_ids, 3)
        np.testing.assert_allclose(out[p.view_rows[:, which]], expected(views), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_mirrors_of_what_is_tested_are_where_the_looks_say(views: int) -> None:
    p = prefix(views=views, flip=True)
    out = computed(p)
    assert out.shape[0] == 70 + 40 * (views - 1) + 30
    plain = computed(prefix(views=views))
    np.testing.assert_array_equal(out[: len(plain)], plain)
    turned = p.model.features(p.variables, normalize(to_unit(jnp.asarray(IMAGES[:, :, ::-1])), *CHANNELS), "layer4")
    tested = np.setdiff1d(np.arange(70), TRAIN)
    np.testing.assert_array_equal(p.eval_rows[:, 0], np.arange(70))
    np.testing.assert_allclose(out[p.eval_rows[tested, 1]], turned[tested], rtol=1e-5, atol=1e-5)
    assert prefix(views=views).eval_rows.shape == (70, 1)
    learning = from_store(p, out, math.inf)
    np.testing.assert_array_equal(np.asarray(learning.loader.ages)[p.eval_rows[tested, 1]], AGES[tested])


def test_ages_follow_their_views() -> None:
    p = prefix()
    learning = from_store(p, computed(p), math.inf)
    assert learning.loader.resident
    assert not from_store(p, computed(p), 0.0).loader.resident
    for which in range(3):
        np.testing.assert_array_equal(np.asarray(learning.loader.ages)[p.view_rows[:, which]], AGES[TRAIN])
    np.testing.assert_array_equal(np.asarray(learning.loader.ages)[:70], AGES)


def test_the_key_knows_all_that_features_depend_on() -> None:
    p = prefix()
    keys = [feature_key(p, "data"), feature_key(p, "other")]
    changed = jax.tree.map(lambda leaf: leaf, p.variables)
    changed["params"]["conv1"]["kernel"] = changed["params"]["conv1"]["kernel"].at[0, 0, 0, 0].add(1)
    others = {"variables": changed, "start": "avgpool", "views": 2, "flip": True, "seed": 1, "train_rows": TRAIN[:-1]}
    keys += [feature_key(replace(p, **{name: value}), "data") for name, value in others.items()]
    keys.append(feature_key(replace(p, channels=((0.4,) * 3, (0.25,) * 3)), "data"))
    keys.append(feature_key(prefix(loader=DataLoader(IMAGES[:, ::2], AGES, make_mesh())), "data"))
    assert len(set(keys)) == len(keys)
    above = jax.tree.map(lambda leaf: leaf, p.variables)
    above["params"]["fc"]["bias"] = above["params"]["fc"]["bias"] + 1
    assert feature_key(replace(p, variables=above), "data") == keys[0]
    assert feature_key(prefix(make_mesh(jax.devices()[:1]), 0.0), "data") == keys[0]


def test_a_file_is_found_again_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    p, path = prefix(), tmp_path / "features.npy"
    assert kept(p, path) is None
    stored = keep(p, path)
    np.testing.assert_array_equal(stored, computed(p))
    again = kept(p, path)
    assert again is not None
    np.testing.assert_array_equal(again, stored)
    assert kept(replace(p, views=2), path) is None
    os.truncate(path, path.stat().st_size - 1)
    assert kept(p, path) is None
    path.write_bytes(b"")
    assert kept(p, path) is None
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


def test_bfloat16_is_stored_as_it_is(tmp_path: Path) -> None:
    mesh = make_mesh()
    model = create_model("resnet18", dtype="bfloat16")
    variables = replicate(model.init(jax.random.key(0)), mesh)
    small = make_loader(RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), AGES[:6], mesh, math.inf)
    p = prefix(model=model, variables=variables, loader=small, start="layer2.0", train_rows=TRAIN[:0], views=1)
    assert p.dtype == jnp.bfloat16
    stored = keep(p, tmp_path / "features.npy")
    assert stored.dtype == jnp.bfloat16
    assert from_store(p, stored, math.inf).loader.items.dtype == jnp.bfloat16
    assert np.isfinite(stored.astype(np.float32)).all()
    assert prefix(model=model, variables=variables, loader=small, start="fc", views=1).dtype == jnp.float32


def test_what_is_killed_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    code = (
        "import os, signal, pathlib, sys, jaxage.training.feature_cache as f; from tests.test_features import prefix;"
        "run = f.run_prefix;"
        "f.run_prefix = lambda p, out: (run(p, out), out.flush(), os.kill(os.getpid(), signal.SIGKILL));"
        "f.keep(prefix(), pathlib.Path(sys.argv[1]))"
    )
    path = tmp_path / "features.npy"
    process = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert kept(prefix(), path) is None
    assert not path.exists()
