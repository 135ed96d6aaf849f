"""Files built here as torch writes them, so that it runs without torch; the last tests use torch itself."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxage.pretrained.torch_file import read_torch_file
from jaxage.pretrained.torch_pickle import TorchFileError, UnsafeFileError
from jaxage.types import UserError

KINDS = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char"}
KINDS |= {"u1": "Byte", "b1": "Bool"}


class _Global:
    """Pickled as a bare name."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Call:
    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments


class _Pickler(pickle._Pickler):  # the Python one: its methods can be overridden
    def save(self, value: Any, *rest: Any) -> None:
        if isinstance(value, _Global):
            self.write(
                b"c" + value.name.rpartition(".")[0].encode() + b"\n" + value.name.rpartition(".")[2].encode() + b"\n"
            )
        elif isinstance(value, _Call):
            self.save(_Global(value.name))
            self.save(value.arguments)
            self.write(b"R")
        elif isinstance(value, _Persistent):
            self.save(value.identity)
            self.write(b"Q")
        else:
            super().save(value, *rest)


class _Persistent:
    def __init__(self, *identity: Any) -> None:
        self.identity = identity


def dumps(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def storage(array: np.ndarray, key: str = "0", numel: int | None = None, *view: Any) -> _Persistent:
    kind = _Global(f"torch.{KINDS[array.dtype.str[1:]]}Storage")
    return _Persistent("storage", kind, key, "cpu", array.size if numel is None else numel, *view)


def tensor(array: np.ndarray, key: str = "0", offset: Any = 0, size: Any = None, stride: Any = None) -> _Call:
    steps = tuple(step // array.itemsize for step in array.strides) if stride is None else stride
    shape = array.shape if size is None else size
    rest = (False, _Call("collections.OrderedDict"))
    return _Call("torch._utils._rebuild_tensor_v2", storage(array, key), offset, shape, steps, *rest)


def zipped(
    content: Any, storages: dict[str, np.ndarray], extra: dict[str, bytes] | None = None, **options: Any
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr("archive/data.pkl", content if isinstance(content, bytes) else dumps(content))
        for name, data in ({"archive/byteorder": b"little", "archive/version": b"3\n"} | (extra or {})).items():
            archive.writestr(name, data)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return buffer.getvalue()


def legacy(content: Any, storages: dict[str, np.ndarray], little: bool = True) -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}]
    parts = [dumps(part) for part in head]
    parts += [content if isinstance(content, bytes) else dumps(content), dumps(list(storages))]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    return b"".join(parts)


WRITERS = {"zip": zipped, "legacy": legacy}
Writer = Callable[..., bytes]


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Writer:
    return WRITERS[request.param]


def read(data: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "weights.pth"
    path.write_bytes(data)
    return only(path)


def only(path: Path) -> dict[str, np.ndarray]:
    """The tensors of the only dict that has some."""
    file = read_torch_file(path)
    (tensors,) = file.dicts.values()
    return file.arrays(tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype(kind: str, write: Writer, tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    (found,) = read(write({"w": tensor(array)}, {"0": array}), tmp_path).values()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_bfloat16_becomes_float32_exactly(write: Writer, tmp_path: Path) -> None:
    values = np.float32([[1, -2.5], [3e38, 1e-38]])
    halves = (values.view("<u4") >> 16).astype("<i2")
    data = write({"w": tensor(halves, stride=(1, 2))}, {"0": halves}).replace(
        b"torch\nShortStorage", b"torch\nBFloat16Storage"
    )
    if write is zipped:
        data = zipped(
            dumps({"w": tensor(halves, stride=(1, 2))}).replace(b"ShortStorage", b"BFloat16Storage"), {"0": halves}
        )
    found = read(data, tmp_path)["w"]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, (values.view("<u4") & 0xFFFF0000).view("<f4").T)


def test_views_share_a_storage(write: Writer, tmp_path: Path) -> None:
    base = np.arange(20, dtype=np.float32)
    content = {
        "transposed": tensor(base, size=(4, 5), stride=(1, 4)),
        "offset": tensor(base, offset=7, size=(3,), stride=(2,)),
        "scalar": tensor(base, offset=19, size=(), stride=()),
        "empty": tensor(base, size=(0, 3), stride=(3, 1)),
        "parameter": _Call("torch._utils._rebuild_parameter", tensor(base), True, _Call("collections.OrderedDict")),
    }
    found = read(write(content, {"0": base}), tmp_path)
    np.testing.assert_array_equal(found["transposed"], base.reshape(5, 4).T)
    np.testing.assert_array_equal(found["offset"], [7, 9, 11])
    assert found["scalar"] == 19
    assert found["scalar"].shape == ()
    assert found["empty"].shape == (0, 3)
    np.testing.assert_array_equal(found["parameter"], base)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in found.values())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_ordered_dicts_nesting_and_protocols(protocol: int, tmp_path: Path) -> None:
    array = np.float32([1, 2])
    state = dumps({"epoch": 3, "state_dict": {"w": tensor(array)}, "name": "x", "scores": [0.5, None]}, protocol)
    np.testing.assert_array_equal(read(zipped(state, {"0": array}), tmp_path)["w"], array)


def test_objects_beside_the_tensors_are_passed_over(write: Writer, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    content = {
        "args": Forbidden(os.system, f"touch {trap}"),
        "optimizer": {"state": {0: {"step": 3}}, ("a", "b"): {1, 2}, "groups": frozenset([0.5])},
        "epoch": 3,
        "net": {"w": tensor(ARRAY), "n": 4, "extra": Forbidden(eval, "1")},
        "ema": {"deeper": {"w": tensor(ARRAY)}},
    }
    path = tmp_path / "weights.pth"
    path.write_bytes(write(content, {"0": ARRAY}))
    file = read_torch_file(path)
    assert list(file.dicts) == [("net",), ("ema", "deeper")]
    assert list(file.dicts["net",]) == ["w"]
    np.testing.assert_array_equal(file.arrays(file.dicts["ema", "deeper"])["w"], ARRAY)
    assert not trap.exists()


class Forbidden:
    """Pickled as a call that must never happen."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


CRIES = pytest.mark.parametrize("protocol", range(6))


@CRIES
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__, open], ids=lambda f: f.__name__)
def test_calls_are_refused_by_name(function: Any, protocol: int, write: Writer, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    bad = pickle.dumps({"w": Forbidden(function, f"open({str(trap)!r}, 'w')")}, protocol)
    with pytest.raises(UnsafeFileError, match=f"{function.__name__}|INT|STRING|DICT|UNICODE|PUT") as error:
        read(write(bad, {}), tmp_path)
    assert "weights.pth" in str(error.value)
    assert not trap.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02cos\nsystem\n)\x81.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__cos\nsystem\nsb.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"Pid\n.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x00\x85R.",
    ],
)
def test_programs_that_no_state_dict_needs(program: bytes, write: Writer, tmp_path: Path) -> None:
    with pytest.raises(TorchFileError):
        read(write(program, {}), tmp_path)


ARRAY = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    "content",
    [
        {"w": tensor(ARRAY, offset=1)},
        {"w": tensor(ARRAY, size=(7,))},
        {"w": tensor(ARRAY, size=(2,), stride=(6,))},
        {"w": tensor(ARRAY, offset=-1, size=(2,), stride=(1,))},
        {"w": tensor(ARRAY, offset=5, size=(2,), stride=(-1,))},
        {"w": tensor(ARRAY, size=(2, 3), stride=(1,))},
        {"w": tensor(ARRAY, size=(2**40, 2**40), stride=(0, 0))},
        {"w": tensor(ARRAY, size=(2**70,), stride=(0,))},
        {"w": tensor(ARRAY, size=(100,), stride=(0,))},
        {"w": tensor(ARRAY, size=(1,) * 70, stride=(0,) * 70)},
        {"w": tensor(ARRAY, size=(True,), stride=(1,))},
        {"w": tensor(ARRAY, offset=0.5, size=(1,), stride=(1,))},
        {"w": tensor(ARRAY, key="elsewhere")},
        {"w": tensor(ARRAY, key="../../etc/passwd")},
        {"w": _Call("torch._utils._rebuild_tensor_v2", storage(ARRAY, "0", 7), 0, (7,), (1,))},
        {"w": _Call("torch._utils._rebuild_tensor_v2", storage(ARRAY, "0", 2**62), 0, (7,), (1,))},
        {"w": _Call("torch._utils._rebuild_tensor_v2", storage(ARRAY, "0", None, ("1", 0, 2)), 0, (2,), (1,))},
        {"w": _Call("torch._utils._rebuild_tensor_v2", "no storage", 0, (2,), (1,))},
        {"w": storage(ARRAY)},
        {3: tensor(ARRAY)},
        {("a", "b"): tensor(ARRAY)},
        {},
        [tensor(ARRAY)],
        tensor(ARRAY),
        "text",
    ],
)
def test_contents_that_lie_or_are_no_state_dict(content: Any, write: Writer, tmp_path: Path) -> None:
    with pytest.raises(TorchFileError, match=r"weights\.pth"):
        read(write(content, {"0": ARRAY}), tmp_path)


def test_one_storage_given_out_a_thousand_times(write: Writer, tmp_path: Path) -> None:
    large = np.zeros(10_000, np.float32)
    with pytest.raises(TorchFileError, match="far larger than the file"):
        read(write({f"w{i}": tensor(large) for i in range(1000)}, {"0": large}), tmp_path)


def test_containers_that_are_not_torchs(tmp_path: Path) -> None:
    good = {"w": tensor(ARRAY)}
    storages = {"0": ARRAY}
    bad = {
        "empty": b"",
        "text": b"<html>404</html>",
        "another zip": zipped(b"", {}).replace(b"data.pkl", b"data.txt"),
        "compressed": zipped(good, storages, compression=zipfile.ZIP_DEFLATED),
        "big endian zip": zipped(good, storages, {"archive/byteorder": b"big"}),
        "big endian legacy": legacy(good, storages, little=False),
        "TorchScript": zipped(good, storages, {"archive/constants.pkl": b""}),
        "code": zipped(good, storages, {"archive/code/__torch__.py": b"import os"}),
        "two pickles": zipped(good, storages, {"other/data.pkl": b""}),
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TorchFileError, match=name):
            read_torch_file(tmp_path / name)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(good, storages | {"0": ARRAY}, {"archive/data/0": b""})
    with pytest.raises(TorchFileError, match="two entries"):
        read(twice, tmp_path)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(TorchFileError, match="cannot be read"):
            read_torch_file(path)


def test_a_billion_laughs_and_deep_nests_end_soon(write: Writer, tmp_path: Path) -> None:
    laugh: Any = "ha"
    for _ in range(60):
        laugh = (laugh, laugh)
    deep = b"\x80\x02" + b"}" + b")" + b"\x85" * 500_000 + b"K\x01s."
    keyed = _Call("torch._utils._rebuild_tensor", storage(ARRAY, laugh), 0, ARRAY.shape, (1, 1))
    sized = tensor(ARRAY, size=(laugh,))
    for content in (
        {"w": laugh},
        {"w": keyed},
        {"w": sized},
        deep,
        b"\x80\x02" + b"N" * 3_000_000 + b".",
    ):
        with pytest.raises(TorchFileError):
            read(write(content, {}), tmp_path)


def test_cut_short_anywhere(write: Writer, tmp_path: Path) -> None:
    whole = write({"w": tensor(ARRAY)}, {"0": ARRAY})
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        with pytest.raises(TorchFileError):
            read(whole[:length], tmp_path)


@settings(max_examples=300, deadline=None)
@example("legacy", [(0.625, 92)])  # makes pickletools warn
@given(
    st.sampled_from(sorted(WRITERS)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_bytes_changed_at_random_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, writer: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(WRITERS[writer]({"w": tensor(ARRAY), "v": tensor(ARRAY[:2], "1")}, {"0": ARRAY, "1": ARRAY[:2]}))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    try:
        found = read(bytes(data), tmp_path_factory.getbasetemp())
    except UserError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs torch: install jaxage[parity]")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saves(torch: Any, new: bool, protocol: int, tmp_path: Path) -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = layer.state_dict()
    assert isinstance(state, OrderedDict)
    base = torch.randn(6, 5, 4)
    kinds = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
    for kind in kinds.split():
        values = (base * 9).to(getattr(torch, kind))
        state |= {f"{kind}.t": values.permute(2, 0, 1), f"{kind}.v": values[1:, ::2], f"{kind}.s": values[0, 0, 0]}
    state["parameter"] = torch.nn.Parameter(base)
    torch.save(state, tmp_path / "s.pt", _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    found = only(tmp_path / "s.pt")
    assert list(found) == list(state)
    for name, value in state.items():
        wanted = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
        assert found[name].dtype == wanted.numpy().dtype
        np.testing.assert_array_equal(found[name], wanted.numpy(), err_msg=name)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_whole_model_is_refused_by_its_name(torch: Any, new: bool, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(UnsafeFileError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        read_torch_file(tmp_path / "model.pt")
