"""Read the tensors of a checkpoint, whatever program saved it: a file is known by its content. Nothing is executed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jaxage.pretrained.find_state import DictPath
from jaxage.pretrained.flax_files import read_msgpack, read_orbax, torch_states
from jaxage.pretrained.safetensors_io import Tensors, read_safetensors
from jaxage.pretrained.torch_file import TorchFile, read_torch_file
from jaxage.types import UserError
from jaxage.utils.text import quoted

_HEAD_BYTES = 512
_MSGPACK_MAPS = {*range(0x81, 0x90), 0xDE, 0xDF}
_OTHER_KINDS: dict[bytes, str] = {
    b"\x89HDF": "an HDF5 file, as Keras saves it: save the weights of torchvision's model as safetensors",
    b"\x1f\x8b": "a compressed file: unpack it",
    b"GGUF": "a GGUF file, which holds no convolutional network",
    b"<": "an HTML or XML page: download the weights again",
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull",
    b"\x93NUMPY": "an array of NumPy: save the whole state dict as safetensors",
}


class Checkpoint(NamedTuple):
    """The dicts of tensors in a checkpoint, by their paths in it.

    shapes: of each tensor of each dict. load: the tensors of one dict, as torch lays them out.
    """

    shapes: dict[DictPath, dict[str, tuple[int, ...]]]
    load: Callable[[DictPath], Tensors]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors file, a file of `torch.save`, a msgpack file of Flax, or the folder of an Orbax checkpoint.

    Raises:
        UserError: (TorchFileError among them) for a file of another kind, and for a broken one.
    """
    if path.is_dir():
        return _loaded(torch_states(read_orbax(path)))
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{quoted(path)} cannot be read ({error.strerror})") from error
    if is_safetensors(head):
        return _loaded({(): read_safetensors(path)})
    if head.startswith((b"PK", b"\x80")):
        file_of_torch = read_torch_file(path)
        shapes = {at: {key: each.size for key, each in tensors.items()} for at, tensors in file_of_torch.dicts.items()}
        return Checkpoint(shapes, partial(_load_torch, file_of_torch))
    if other := _other_kind(head, path):
        raise UserError(f"{quoted(path)} is {other}")
    if head[0] in _MSGPACK_MAPS:
        return _loaded(torch_states(read_msgpack(path)))
    raise UserError(
        f"{quoted(path)} is no file of weights: give one of torch.save, safetensors, Flax's msgpack, or an Orbax folder"
    )


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is one of safetensors: the length of a JSON object, and the object."""
    return len(head) > 8 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 2**32


def _loaded(states: dict[DictPath, Tensors]) -> Checkpoint:
    shapes = {at: {key: value.shape for key, value in state.items()} for at, state in states.items()}
    return Checkpoint(shapes, states.__getitem__)


def _load_torch(file: TorchFile, path: DictPath) -> Tensors:
    return file.arrays(file.dicts[path])


def _other_kind(head: bytes, path: Path) -> str | None:
    if not head:
        return "an empty file: fetch it again"
    if path.suffix.lower() == ".onnx":
        return "an ONNX file, a program: save the model's state_dict() with torch instead"
    return next((kind for magic, kind in _OTHER_KINDS.items() if head.lstrip().startswith(magic)), None)
