"""Read torch's own files (.pth, .pt) without torch and without executing anything."""

import io
import math
import struct
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Shaped

from jaxage.pretrained.safetensors_io import Tensors
from jaxage.pretrained.torch_pickle import (
    BFLOAT16,
    Opaque,
    Storage,
    Tensor,
    TorchFileError,
    UnsafeFileError,
    expect,
    read_pickle,
)
from jaxage.utils.text import quoted

_MAX_GROWTH, _MAX_DEPTH = 8, 8
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_BROKEN: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, TypeError, EOFError, ArithmeticError, RuntimeError, MemoryError),
    *(struct.error, zipfile.BadZipFile, Warning),
)


class TorchFile(NamedTuple):
    """What `torch.save` wrote.

    dicts: every dict with tensors under strings, by its path in the file: () or ("state_dict",), say.
    arrays: the tensors of one of them as arrays that own their memory, with the dtype they were saved with. NumPy has
        no bfloat16: it becomes float32, which is exact.
    """

    dicts: dict[tuple[str, ...], dict[str, Tensor]]
    arrays: Callable[[dict[str, Tensor]], Tensors]


def read_torch_file(path: Path) -> TorchFile:
    """Read what `torch.save` wrote, in its zip format or the legacy format before torch 1.6. Nothing is executed.

    Objects other than tensors, dicts and plain values are passed over.

    Raises:
        UnsafeFileError: if there is no dict with tensors, but other objects, such as a whole pickled model.
        TorchFileError: if the file is not one of `torch.save`, is cut short, or contradicts itself.
    """
    with _explained(path):
        data = path.read_bytes()
        content, storages = (_read_zip if data.startswith(b"PK") else _read_legacy)(io.BytesIO(data))
        dicts = _dicts(content)
        if not dicts:
            _refuse(content)
    return TorchFile(dicts, partial(_arrays, path, storages, _MAX_GROWTH * len(data)))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pickletools warns of text that torch never writes
            yield
    except TorchFileError as error:
        raise type(error)(f"{quoted(path)}: {error}") from None
    except OSError as error:
        raise TorchFileError(f"{quoted(path)} cannot be read ({error.strerror or error})") from error
    except _BROKEN as error:
        raise TorchFileError(
            f"{quoted(path)}: not a file of torch.save, or a broken one ({error}); fetch it again"
        ) from error


def _dicts(content: Any) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """The tensors of every dict in the content, each dict once."""
    found: dict[tuple[str, ...], dict[str, Tensor]] = {}
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    seen: set[int] = set()
    while waiting:
        path, each = waiting.popleft()
        if type(each) is not dict or id(each) in seen or len(path) > _MAX_DEPTH:
            continue
        seen.add(id(each))
        named = {key: value for key, value in each.items() if type(key) is str}
        if tensors := {key: value for key, value in named.items() if type(value) is Tensor}:
            found[path] = tensors
        waiting += [((*path, key), value) for key, value in named.items()]
    return found


def _refuse(content: Any) -> NoReturn:
    values = content.values() if type(content) is dict else [content]
    names = [value.name for value in values if isinstance(value, Opaque)]
    if names:
        raise UnsafeFileError(
            f"it holds no tensors but {names[0]}, a pickled object, and nothing is run to make one: save the model's "
            "state_dict() with torch"
        )
    keys = ", ".join(quoted(str(key)) for key in list(content)[:3]) if type(content) is dict else ""
    held = f"a dict of {keys or 'nothing'}" if type(content) is dict else f"a {type(content).__name__}"
    raise TorchFileError(f"it holds {held} and no state dict: save the model's state_dict() with torch")


def _read_zip(file: io.BytesIO) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise TorchFileError("two entries of one name")
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise TorchFileError("a zip file, but not one of torch.save: it has no data.pkl, or several")
        root = roots[0]
        if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in entries):
            raise UnsafeFileError("TorchScript, a program; save the model's state_dict() instead")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise TorchFileError("compressed entries, which torch.save does not write")
        if sum(info.file_size for info in entries.values()) > len(file.getbuffer()):
            raise TorchFileError("entries that overlap")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise TorchFileError("big-endian tensors; load and save it with torch on a little-endian machine")
        content = read_pickle(io.BytesIO(archive.read(f"{root}data.pkl")))
        prefix = f"{root}data/"
        storages = {
            name.removeprefix(prefix): archive.read(info) for name, info in entries.items() if name.startswith(prefix)
        }
    return content, storages


def _read_legacy(file: io.BytesIO) -> tuple[Any, dict[str, bytes]]:
    if read_pickle(file) != _LEGACY_MAGIC or read_pickle(file) != _LEGACY_PROTOCOL:
        raise TorchFileError("not a file of torch.save")
    if expect(read_pickle(file), dict).get("little_endian") is not True:
        raise TorchFileError("big-endian tensors; load and save it with torch on a little-endian machine")
    found: dict[str, Storage] = {}
    content = read_pickle(file, found)
    storages = {}
    for key in expect(read_pickle(file), list):
        numel = int.from_bytes(file.read(8), "little", signed=True)
        if numel != found[key].numel:
            raise TorchFileError(f"storage {key} has {numel} numbers, not {found[key].numel}")
        storages[key] = file.read(numel * _item_size(found[key].dtype))
    return content, storages


def _item_size(dtype: str) -> int:
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def _arrays(path: Path, storages: dict[str, bytes], budget: int, tensors: dict[str, Tensor]) -> Tensors:
    with _explained(path):
        if sum(math.prod(tensor.size) * _item_size(tensor.storage.dtype) for tensor in tensors.values()) > budget:
            raise TorchFileError("its tensors are far larger than the file")
        return {key: _array(tensor, storages[tensor.storage.key]) for key, tensor in tensors.items()}


def _array(tensor: Tensor, data: bytes) -> Shaped[np.ndarray, "..."]:
    dtype, numel = tensor.storage.dtype, tensor.storage.numel
    if len(data) != numel * _item_size(dtype):
        raise TorchFileError(f"storage {tensor.storage.key} has {len(data)} bytes; it is cut short or of another type")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if math.prod(tensor.size) and (last >= numel or math.prod(tensor.size) > numel):
        raise TorchFileError(f"a tensor of {tensor.size} does not fit into its {numel} numbers")
    if not math.prod(tensor.size):
        return np.empty(tensor.size, np.float32 if dtype == BFLOAT16 else dtype)
    numbers = np.frombuffer(data, "<u2" if dtype == BFLOAT16 else dtype)[tensor.offset :]
    steps = [step * numbers.itemsize for step in tensor.stride]
    view = np.lib.stride_tricks.as_strided(numbers, tensor.size, steps, writeable=False)
    if dtype == BFLOAT16:  # the upper half of a float32
        return np.asarray(np.array(view, "<u4", order="C") << np.uint32(16)).view("<f4")
    return np.array(view, order="C")
