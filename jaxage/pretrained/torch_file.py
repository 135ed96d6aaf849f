"""torch's own files (.pth, .pt), read without torch and without executing anything.

A pickle is a program for a stack machine. Here is a machine that knows the few instructions and names that a state
dict needs, and calls nothing: what a pickle names is only looked at.
"""

import io
import math
import pickletools
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.types import UserError

_BFLOAT16 = "bfloat16"
_DTYPES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": _BFLOAT16,
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMES = {*_DTYPES, *_TENSOR, _ORDERED_DICT, _PARAMETER}

_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"}
_VALUES |= {"SHORT_BINSTRING"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAX_INSTRUCTIONS = 2_000_000
_MAX_GROWTH = 8
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MARK = object()
_BROKEN: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, TypeError, EOFError, ArithmeticError, RuntimeError, MemoryError),
    *(struct.error, zipfile.BadZipFile, Warning),
)


class TorchFileError(UserError):
    """A file that is no state dict of torch's, or a broken one."""


class UnsafeFileError(TorchFileError):
    """A file that asks for more than tensors and dictionaries; the message names the first such thing."""


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict that `torch.save` wrote, in its zip format or the one before torch 1.6.

    The dict may also lie under the key "state_dict" of another. Arrays own their memory and keep their dtype, but for
    bfloat16, which NumPy lacks and which becomes float32, exactly.

    Raises UnsafeFileError for a file that names anything but tensors and dictionaries (a whole pickled model is one),
    TorchFileError for what is no such file, is cut short, or contradicts itself; both name the file.
    """
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of pickletools, for text that torch never writes
            content, storages = (_read_zip if data.startswith(b"PK") else _read_legacy)(io.BytesIO(data))
        return _arrays(content, storages, _MAX_GROWTH * len(data))
    except TorchFileError as error:
        raise type(error)(f"{path}: {error}") from None
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _BROKEN as error:
        raise TorchFileError(f"{path}: not a file of torch.save, or a broken one ({error}); fetch it again") from error


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
        content = _run(io.BytesIO(archive.read(f"{root}data.pkl")))
        prefix = f"{root}data/"
        storages = {
            name.removeprefix(prefix): archive.read(info) for name, info in entries.items() if name.startswith(prefix)
        }
    return content, storages


def _read_legacy(file: io.BytesIO) -> tuple[Any, dict[str, bytes]]:
    if _run(file) != _LEGACY_MAGIC or _run(file) != _LEGACY_PROTOCOL:
        raise TorchFileError("not a file of torch.save")
    if _expect(_run(file), dict).get("little_endian") is not True:
        raise TorchFileError("big-endian tensors; load and save it with torch on a little-endian machine")
    found: dict[str, _Storage] = {}
    content = _run(file, found)
    storages = {}
    for key in _expect(_run(file), list):
        numel = int.from_bytes(file.read(8), "little", signed=True)
        if numel != found[key].numel:
            raise TorchFileError(f"storage {key} has {numel} numbers, not {found[key].numel}")
        storages[key] = file.read(numel * _item_size(found[key].dtype))
    return content, storages


def _item_size(dtype: str) -> int:
    return 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize


def _run(file: io.BytesIO, storages: dict[str, _Storage] | None = None) -> Any:
    """The value of the pickle that begins here. `storages` collects those it mentions."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    storages = {} if storages is None else storages
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > _MAX_INSTRUCTIONS:
            raise TorchFileError("too long a pickle for a state dict")
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(_top(stack, _TUPLES[name]))]
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, attribute = argument.split(" ", 1) if name == "GLOBAL" else _take(stack, 2)
            stack.append(_known(f"{_expect(module, str)}.{_expect(attribute, str)}"))
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            if storages.setdefault(storage.key, storage) != storage:
                raise TypeError(f"the pickle describes storage {storage.key} in two ways")
            stack.append(storage)
        elif name == "REDUCE":
            function, arguments = _take(stack, 2)
            stack.append(_rebuild(function, arguments))
        elif name in ("SETITEM", "SETITEMS"):
            items = _take(stack, 2) if name == "SETITEM" else _pop_to_mark(stack)
            _set(stack[-1], items)
        elif name in ("APPEND", "APPENDS"):
            values = _take(stack, 1) if name == "APPEND" else _pop_to_mark(stack)
            _expect(stack[-1], list).extend(values)
        elif name == "BUILD":
            stack.pop()  # attributes: only state_dict()'s _metadata
            _expect(stack[-1], dict)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise UnsafeFileError(f"the pickle instruction {name}, which no state dict needs; save state_dict()")
    raise EOFError("the pickle has no end")


def _top(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise IndexError("the pickle takes more than it has")
    return stack[-count:]


def _take(stack: list[Any], count: int) -> list[Any]:
    taken = _top(stack, count)
    del stack[-count:]
    return taken


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    for position in range(len(stack) - 1, -1, -1):
        if stack[position] is _MARK:
            taken = stack[position + 1 :]
            del stack[position:]
            return taken
    raise IndexError("the pickle has no mark")


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"the pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _known(name: str) -> _Name:
    if name not in _NAMES:
        raise UnsafeFileError(
            f"it names {name}, and only tensors and dictionaries are read: save the model's state_dict() with torch"
        )
    return _Name(name)


def _set(target: Any, items: list[Any]) -> None:
    keys = items[::2]
    if len(items) % 2 or any(type(key) not in (str, int) for key in keys):
        raise TypeError("the pickle has a dictionary whose keys are not strings")
    _expect(target, dict).update(zip(keys, items[1::2], strict=True))


def _storage(identity: Any) -> _Storage:
    """Of a persistent id: ("storage", type, key, device, number of elements, and in legacy files None for no view)."""
    kind, name, key, _, numel, *view = _expect(identity, tuple)
    if kind != "storage" or view not in ([], [None]):
        raise TypeError("the pickle refers to something that is not a storage")
    dtype = _DTYPES[_expect(name, _Name).name]
    return _Storage(_expect(key, str), dtype, _natural(numel))


def _rebuild(function: Any, arguments: Any) -> Any:
    name = _expect(function, _Name).name
    _expect(arguments, tuple)
    if name == _ORDERED_DICT and not arguments:
        return {}
    if name == _PARAMETER:
        return _expect(arguments[0], _Tensor)
    if name in _TENSOR:
        storage, offset, size, stride = arguments[:4]
        sizes, strides = (tuple(_natural(n) for n in _expect(numbers, tuple)) for numbers in (size, stride))
        return _Tensor(_expect(storage, _Storage), _natural(offset), sizes, strides)
    raise TypeError(f"the pickle calls {name} as torch.save does not")


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        shown = f"{value:.3g}" if type(value) in (int, float) else f"a {type(value).__name__}"
        raise ValueError(f"{shown} where a size or a position belongs")
    return value


def _arrays(content: Any, storages: dict[str, bytes], budget: int) -> dict[str, np.ndarray]:
    if type(content) is dict and type(content.get("state_dict")) is dict:
        content = content["state_dict"]
    if type(content) is not dict or not content:
        raise TorchFileError("no state dict: save the model's state_dict() with torch")
    others = [key for key, value in content.items() if type(key) is not str or type(value) is not _Tensor]
    if others:
        raise TorchFileError(
            f"no state dict: {others[0]!r:.80} is not a tensor; save the model's state_dict() with torch"
        )
    if sum(math.prod(tensor.size) * _item_size(tensor.storage.dtype) for tensor in content.values()) > budget:
        raise TorchFileError("its tensors are far larger than the file")
    return {key: _array(tensor, storages[tensor.storage.key]) for key, tensor in content.items()}


def _array(tensor: _Tensor, data: bytes) -> np.ndarray:
    dtype, numel = tensor.storage.dtype, tensor.storage.numel
    if len(data) != numel * _item_size(dtype):
        raise TorchFileError(f"storage {tensor.storage.key} has {len(data)} bytes; it is cut short or of another type")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if math.prod(tensor.size) and (last >= numel or math.prod(tensor.size) > numel):
        raise TorchFileError(f"a tensor of {tensor.size} does not fit into its {numel} numbers")
    if not math.prod(tensor.size):
        return np.empty(tensor.size, np.float32 if dtype == _BFLOAT16 else dtype)
    numbers = np.frombuffer(data, "<u2" if dtype == _BFLOAT16 else dtype)[tensor.offset :]
    steps = [step * numbers.itemsize for step in tensor.stride]
    view = np.lib.stride_tricks.as_strided(numbers, tensor.size, steps, writeable=False)
    if dtype == _BFLOAT16:  # the upper half of a float32
        return np.asarray(np.array(view, "<u4", order="C") << np.uint32(16)).view("<f4")
    return np.array(view, order="C")
