from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.models.ops.chunks import map_chunks, sum_chunks
from jaxage.utils.sharding import along_batch, make_mesh, replicated
from tests.models.compare import draw


def scaled(x: Any) -> Any:
    return 2 * x[:, ::2]


def products(x: Any, dy: Any, groups: int) -> Any:
    rows = [each.reshape(groups, -1, each.shape[-1]) for each in (x, dy)]
    return [jnp.einsum("gri,gro->gio", *rows)]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 10, 12])
def test_chunks_of_any_batch_are_the_whole(batch: int) -> None:
    x, dy = jnp.asarray(draw(0, batch, 4, 3, 2)), jnp.asarray(draw(1, batch, 4, 3, 5))
    np.testing.assert_array_equal(map_chunks(scaled, x), scaled(x))
    (total,) = sum_chunks(products, x, dy)
    np.testing.assert_allclose(total, jnp.einsum("bhwi,bhwo->io", x, dy), rtol=1e-4, atol=1e-5)


def test_devices_loop_over_their_own_images_and_add_once() -> None:
    mesh = make_mesh(jax.devices()[:2])
    split, whole = along_batch(mesh), replicated(mesh)
    x, dy = draw(0, 16, 4, 3, 2), draw(1, 16, 4, 3, 5)

    def run(x: Any, dy: Any) -> Any:
        return map_chunks(scaled, x), sum_chunks(products, x, dy)[0]

    program = jax.jit(run, in_shardings=(split, split), out_shardings=(split, whole))
    text = program.lower(x, dy).compile().as_text()
    assert text.count(" all-reduce(") == 1
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
    found, total = program(x, dy)
    np.testing.assert_array_equal(found, scaled(x))
    np.testing.assert_allclose(total, np.einsum("bhwi,bhwo->io", x, dy), rtol=1e-4, atol=1e-5)
