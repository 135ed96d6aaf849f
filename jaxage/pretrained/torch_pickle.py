"""Read the pickles in torch's files with a machine that calls nothing.

A pickle is a program for a stack machine. This machine knows only the instructions that data need, and the names that a
state dict needs. It never imports or calls what a pickle names: anything else becomes an `Opaque`, which does nothing.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any

from jaxage.types import UserError

BFLOAT16 = "bfloat16"
_DTYPES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": BFLOAT16,
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

_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"}
_VALUES |= {"SHORT_BINSTRING", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAX_INSTRUCTIONS = 2_000_000
_MARK = object()


class TorchFileError(UserError):
    """A file that is not a state dict of torch, or a broken one."""


class UnsafeFileError(TorchFileError):
    """A file that has no state dict but asks for more than tensors and dictionaries; the message names it."""


@dataclass(frozen=True)
class Opaque:
    """An object that the file would have Python make: it is not made, and only its name is known."""

    name: str


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names."""

    name: str


@dataclass(frozen=True)
class Storage:
    """`numel` numbers that the file has beside the pickle, under `key`; `dtype` is NumPy's or `BFLOAT16`."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; `offset` and `stride` count numbers, not bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(file: io.BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """Read the pickle that begins at the position of the file.

    Args:
        file: Left behind the pickle's end.
        storages: Gets the storages that the pickle mentions, by key.

    Returns:
        Dicts, lists, tuples, strings, numbers, `Tensor` for each tensor, and `Opaque` for everything else.

    Raises:
        UnsafeFileError: for an instruction that no data need.
        TorchFileError, TypeError, ValueError, LookupError, EOFError: for a pickle that contradicts itself.
    """
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
        elif name == "EMPTY_SET":
            stack.append(Opaque("set"))
        elif name == "FROZENSET":
            _pop_to_mark(stack)
            stack.append(Opaque("frozenset"))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            _take(stack, 1)
        elif name == "POP_MARK":
            _pop_to_mark(stack)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, attribute = argument.split(" ", 1) if name == "GLOBAL" else _take(stack, 2)
            stack.append(_known(f"{expect(module, str)}.{expect(attribute, str)}"))
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            if isinstance(storage, Storage) and storages.setdefault(storage.key, storage) != storage:
                raise TypeError(f"the pickle describes storage {storage.key} in two ways")
            stack.append(storage)
        elif name == "REDUCE":
            function, arguments = _take(stack, 2)
            stack.append(_rebuild(function, arguments))
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            kind = _take(stack, 2 if name == "NEWOBJ" else 3)[0]
            stack.append(Opaque(kind.name if isinstance(kind, _Name | Opaque) else "an object"))
        elif name == "ADDITEMS":
            _pop_to_mark(stack)
            expect(stack[-1], Opaque)
        elif name in ("SETITEM", "SETITEMS"):
            items = _take(stack, 2) if name == "SETITEM" else _pop_to_mark(stack)
            _set(stack[-1], items)
        elif name in ("APPEND", "APPENDS"):
            values = _take(stack, 1) if name == "APPEND" else _pop_to_mark(stack)
            if not isinstance(stack[-1], Opaque):
                expect(stack[-1], list).extend(values)
        elif name == "BUILD":
            stack.pop()  # attributes, such as state_dict()'s _metadata
            if not isinstance(stack[-1], Opaque):
                expect(stack[-1], dict)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise UnsafeFileError(f"the pickle instruction {name}, which no data need; save state_dict()")
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


def expect(value: Any, kind: type) -> Any:
    """Return the value if its type is exactly `kind`. Raises TypeError otherwise."""
    if type(value) is not kind:
        raise TypeError(f"the pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _known(name: str) -> _Name | Opaque:
    return _Name(name) if name in _NAMES else Opaque(name)


def _set(target: Any, items: list[Any]) -> None:
    """Set the items whose keys are strings or numbers; others, say of an optimizer, are left out."""
    if len(items) % 2:
        raise TypeError("the pickle has a key without a value")
    if not isinstance(target, Opaque):
        pairs = zip(items[::2], items[1::2], strict=True)
        expect(target, dict).update((key, value) for key, value in pairs if type(key) in (str, int))


def _storage(identity: Any) -> Storage | Opaque:
    """A storage from its id ("storage", type, key, device, number of elements); legacy files add None for no view."""
    if expect(identity, tuple)[:1] == ("module",):  # a class of a whole model, with its source
        return identity[1] if isinstance(identity[1], Opaque) else Opaque("a module")
    kind, name, key, _, numel, *view = identity
    if kind != "storage" or view not in ([], [None]):
        raise TypeError("the pickle refers to something that is not a storage")
    if isinstance(name, Opaque):
        return name
    dtype = _DTYPES[expect(name, _Name).name]
    return Storage(expect(key, str), dtype, _natural(numel))


def _rebuild(function: Any, arguments: Any) -> Any:
    if isinstance(function, Opaque):
        return function
    name = expect(function, _Name).name
    expect(arguments, tuple)
    if name == _ORDERED_DICT and not arguments:
        return {}
    if name in (_PARAMETER, *_TENSOR) and isinstance(arguments[0], Opaque):
        return arguments[0]
    if name == _PARAMETER:
        return expect(arguments[0], Tensor)
    if name in _TENSOR:
        storage, offset, size, stride = arguments[:4]
        sizes, strides = (tuple(_natural(n) for n in expect(numbers, tuple)) for numbers in (size, stride))
        return Tensor(expect(storage, Storage), _natural(offset), sizes, strides)
    raise TypeError(f"the pickle calls {name} as torch.save does not")


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        shown = f"{value:.3g}" if type(value) in (int, float) else f"a {type(value).__name__}"
        raise ValueError(f"{shown} where a size or a position belongs")
    return value
