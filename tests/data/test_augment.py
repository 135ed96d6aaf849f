import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.ndimage import map_coordinates

from jaxage.data.augment import _color, _crop_matrices, _resample, augment, normalize, to_unit


def test_values_stay_in_the_unit_interval_and_shapes_stay() -> None:
    images = jax.random.uniform(jax.random.key(1), (16, 24, 20, 3))
    out = augment(jax.random.key(0), images)
    assert out.shape == images.shape
    assert out.dtype == jnp.float32
    assert 0 <= out.min() < out.max() <= 1


def test_each_image_gets_its_own_change_and_the_key_decides() -> None:
    images = jnp.broadcast_to(jax.random.uniform(jax.random.key(1), (1, 16, 16, 3)), (8, 16, 16, 3))
    out = augment(jax.random.key(0), images)
    assert len(np.unique(np.asarray(out).reshape(8, -1), axis=0)) == 8
    np.testing.assert_array_equal(out, augment(jax.random.key(0), images))
    assert (out != augment(jax.random.key(1), images)).any()


@given(
    start=st.floats(0, 0.3),
    extent=st.floats(0.6, 0.7),
    flip=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_resampling_is_bilinear_interpolation(start: float, extent: float, flip: bool) -> None:
    signal = np.random.default_rng(0).random(32)
    begin, length = (start + extent, -extent) if flip else (start, extent)
    matrix = _resample(jnp.float32([begin]), jnp.float32([length]), 32)[0]
    points = (begin + length * (np.arange(32) + 0.5) / 32) * 32 - 0.5
    expected = map_coordinates(signal, [points], order=1, mode="nearest")
    np.testing.assert_allclose(matrix @ jnp.float32(signal), expected, atol=2e-5)


def test_the_whole_interval_changes_nothing_and_its_reverse_flips() -> None:
    images = jax.random.uniform(jax.random.key(0), (1, 12, 12, 3))
    straight = _resample(jnp.zeros(1), jnp.ones(1), 12)
    flipped = _resample(jnp.ones(1), -jnp.ones(1), 12)
    np.testing.assert_allclose(straight[0], np.eye(12), atol=1e-6)
    np.testing.assert_allclose(jnp.einsum("bxw,bhwc->bhxc", flipped, images), images[:, :, ::-1], atol=1e-5)


def test_crops_have_the_stated_area_and_half_are_flipped() -> None:
    rows, columns = _crop_matrices(jax.random.key(0), 2000, 32, 32)
    ramp_ = jnp.arange(32.0)
    tall = (rows @ ramp_)[:, -1] - (rows @ ramp_)[:, 0]
    wide = (columns @ ramp_)[:, -1] - (columns @ ramp_)[:, 0]
    area = np.asarray(tall * jnp.abs(wide)) / 31**2
    assert 0.76 < area.min() < 0.83
    assert 0.97 < area.max() <= 1.001
    assert (tall > 0).all()
    assert 0.45 < (wide < 0).mean() < 0.55


def test_colour_keeps_grey_grey() -> None:
    gray = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (4, 8, 8, 1)), (4, 8, 8, 3))
    out = _color(jax.random.key(1), gray)
    np.testing.assert_allclose(out.max(3), out.min(3), atol=1e-6)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_normalise_inverts_to_the_contract(value: int) -> None:
    pixels = jnp.full((1, 2, 2, 3), value, jnp.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = normalize(to_unit(pixels), mean, std)
    np.testing.assert_allclose(out[0, 0, 0], (value / 255 - np.array(mean)) / np.array(std), rtol=1e-5)
