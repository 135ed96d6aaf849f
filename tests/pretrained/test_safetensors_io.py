import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from jaxage.pretrained.safetensors_io import read_metadata, read_safetensors, read_variables, sha256_of, write_variables
from jaxage.types import UserError
from jaxage.utils.trees import flatten

VARIABLES = {"params": {"fc": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}, "batch_stats": {}}
METADATA = {"arch": "resnet18", "tag": "test"}


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=4)), st.data())
def test_any_view_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, data: st.DataObject
) -> None:
    """Transposed ones too, whose memory safetensors 0.8.0 writes as it lies (its issue 825)."""
    view = array.transpose(data.draw(st.permutations(range(array.ndim))))
    path = tmp_path_factory.getbasetemp() / "view.safetensors"
    write_variables(path, {"params": {"a": {"kernel": view}}}, METADATA)
    found = read_variables(path)["params"]["a"]["kernel"]
    assert found.shape == view.shape
    assert found.tobytes() == view.tobytes()
    assert read_metadata(path) == METADATA | {"format": "jaxage"}


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    write_variables(path, VARIABLES, METADATA)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_variables(path, {"params": {}, "batch_stats": {}}, METADATA)
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
    kept = flatten(read_variables(path))
    np.testing.assert_array_equal(kept["params.fc.kernel"], VARIABLES["params"]["fc"]["kernel"])


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>" + b, lambda b: b[:-1]]
)
def test_a_damaged_file_is_named(damage: object, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_variables(path, VARIABLES, METADATA)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
        read_variables(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors"):
        read_safetensors(tmp_path / "none.safetensors")


def test_somebody_elses_file_is_no_variables(tmp_path: Path) -> None:
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not written by jaxage"):
        read_variables(tmp_path / "other.safetensors")
    assert list(read_safetensors(tmp_path / "other.safetensors")) == ["w"]


def test_the_sum_is_hashlibs(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
