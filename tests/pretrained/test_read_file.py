"""The same network in the files of many programs."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.flax import save_file as save_jax
from safetensors.numpy import save_file

from jaxage.models.registry import create_model
from jaxage.pretrained.convert import to_flax
from jaxage.pretrained.load import find_weights, load_pretrained
from jaxage.pretrained.safetensors_io import sha256_of
from jaxage.types import UserError
from jaxage.utils.trees import flatten
from tests.pretrained.state import torch_state
from tests.pretrained.test_torch_file import legacy, tensor, zipped

STATE = torch_state("resnet18")
VARIABLES = to_flax(STATE, "resnet18").variables


def torch_content(state: dict[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
    content = {name: tensor(array, key=str(i)) for i, (name, array) in enumerate(state.items())}
    return content, {str(i): array for i, array in enumerate(state.values())}


def orbax(path: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), tree)


def steps(path: Path, tree: Any) -> None:
    with ocp.CheckpointManager(path.resolve()) as manager:
        for step in (9, 10):
            manager.save(step, args=ocp.args.Composite(best=ocp.args.StandardSave(tree)))
        manager.wait_until_finished()


TRAIN_STATE = {"step": np.int32(3), "opt_state": {"0": {"mu": {"x": np.zeros(2)}}}, **VARIABLES}

FILES: dict[str, Callable[[Path], Any]] = {
    "plain.safetensors": lambda path: save_file(STATE, path),
    "safetensors.pth": lambda path: save_file({f"model.{key}": value for key, value in STATE.items()}, path),
    "bf16.safetensors": lambda path: save_jax({key: jnp.asarray(v, jnp.bfloat16) for key, v in STATE.items()}, path),
    "zip.safetensors": lambda path: path.write_bytes(zipped(*torch_content(STATE))),
    "legacy.bin": lambda path: path.write_bytes(legacy(*torch_content(STATE))),
    "flax.msgpack": lambda path: path.write_bytes(flax.serialization.to_bytes(TRAIN_STATE)),
    "params.ckpt": lambda path: path.write_bytes(flax.serialization.msgpack_serialize({"model": VARIABLES})),
    "orbax": lambda path: orbax(path, TRAIN_STATE),
    "orbax steps": lambda path: steps(path, VARIABLES),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FILES[name](path)
    found = find_weights(path, "resnet18")
    wanted = flatten(VARIABLES)
    for leaf, value in flatten(found.variables).items():
        tolerance = 2**-8 if name.startswith("bf16") else 0
        np.testing.assert_allclose(value, wanted[leaf], rtol=tolerance, err_msg=leaf)
        assert value.dtype == np.float32
    assert len(flatten(found.variables)) == len(wanted)
    assert len(found.sha256) == 64
    head = load_pretrained(create_model("resnet18", outputs=1), path)["params"]["fc"]["kernel"]
    assert head.shape == (512, 1)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("page.pth", b"<!DOCTYPE html><html>404</html>", "is an HTML or XML page: download the weights again"),
        ("pointer.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        ("keras.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "is an HDF5 file, as Keras saves it"),
        ("net.onnx", b"\x08\x07\x12\x07pytorch", "is an ONNX file, a program: save the model's state_dict"),
        ("empty.pth", b"", "is an empty file: fetch it again"),
        ("words.pth", b"hello", "is no file of weights: give one of torch.save"),
        ("packed.pth", b"\x1f\x8b\x08", "is a compressed file: unpack it"),
        ("short.safetensors", struct.pack("<Q", 900) + b'{"a":', "not a readable safetensors file"),
        ("broken.msgpack", b"\x82\xa6params\x81", "a msgpack file that Flax cannot read"),
        ("list.npz", b"PK\x03\x04" + b"\0" * 30, "not a file of torch.save, or a broken one"),
        ("other.msgpack", flax.serialization.msgpack_serialize({"a": np.zeros(3)}), "no resnet18: its keys are ;"),
    ],
)
def test_files_of_other_kinds_are_named(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        find_weights(tmp_path / name, "resnet18")
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, and no Orbax checkpoint: name a file of weights"):
        find_weights(tmp_path, "resnet18")
    orbax(tmp_path / "broken", VARIABLES)
    (tmp_path / "broken" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match=r"broken': a broken Orbax checkpoint"):
        find_weights(tmp_path / "broken", "resnet18")


def test_the_sum_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    before = sha256_of(tmp_path / "a")
    assert sha256_of((tmp_path / "a").rename(tmp_path / "b")) == before
    (tmp_path / "b" / "x").write_bytes(b"2")
    assert sha256_of(tmp_path / "b") != before
