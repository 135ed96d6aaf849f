import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxage.data.files import image_root, open_files, path_fault
from jaxage.data.records import DataError

FILES = {f"faces/{'long' * 30}/{i}.jpg": os.urandom(500 * i) for i in range(40)} | {"é.jpg": b"accent"}


def tar_of(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT, prefix: str = "") -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def packed(path: Path, compress: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(compress(path.read_bytes()))
    return path


def joined(path: Path) -> Path:
    """Two archives, one behind the other, as `cat` leaves them."""
    names = list(FILES)
    parts = [tar_of(path, {name: FILES[name] for name in part}).read_bytes() for part in (names[:20], names[20:])]
    path.write_bytes(b"".join(parts))
    return path


ROOTS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda tmp: folder_of(tmp, FILES),
    "pax": lambda tmp: tar_of(tmp / "x.tar", FILES),
    "gnu": lambda tmp: tar_of(tmp / "x.tar", FILES, tarfile.GNU_FORMAT),
    "ustar": lambda tmp: tar_of(tmp / "x.tar", FILES, tarfile.USTAR_FORMAT),
    "dotted": lambda tmp: tar_of(tmp / "x.tar", FILES, prefix="./"),
    "gzip": lambda tmp: packed(tar_of(tmp / "x.tar", FILES), gzip.compress),
    "bzip2": lambda tmp: packed(tar_of(tmp / "x.tar", FILES), bz2.compress),
    "xz, named otherwise": lambda tmp: packed(tar_of(tmp / "x.zip", FILES), lzma.compress),
    "zip": lambda tmp: zip_of(tmp / "x.zip", FILES),
    "zip of Windows": lambda tmp: zip_of(tmp / "x.zip", {n.replace("/", "\\"): data for n, data in FILES.items()}),
    "zip, named otherwise": lambda tmp: zip_of(tmp / "x.tar", FILES),
    "joined": lambda tmp: joined(tmp / "x.tar"),
}


@pytest.mark.parametrize("make", ROOTS.values(), ids=ROOTS)
def test_many_threads_read_the_right_bytes(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    wanted, root = list(FILES) * 20, make(tmp_path)
    with open_files(root) as files, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, wanted)) == [FILES[name] for name in wanted]
        assert files.read("e\u0301.JPG") == files.read("\u00e9.jpg") == b"accent"
        assert files.paths() == sorted(FILES)
        for name in ("faces/none.jpg", "É.jpg"):
            with pytest.raises(FileNotFoundError):
                files.read(name)


def test_only_regular_members(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("dir", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("real"), io.BytesIO(b""))
        second = tarfile.TarInfo("second")
        second.type, second.linkname = tarfile.LNKTYPE, "real"
        tar.addfile(second)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("soft")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with open_files(tmp_path / "x.zip") as files, pytest.raises(OSError, match="regular file"):
        files.read("soft")
    with open_files(path) as files:
        assert files.paths() == ["real", "second"]
        assert files.read("second") == b""
        for name in ("soft", "hard", "dir"):
            with pytest.raises(OSError, match="regular file"):
                files.read(name)


def test_only_regular_files(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "soft").symlink_to(tmp_path / "real")
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with open_files(tmp_path) as files:
        assert files.read("real") == b"x"
        for name in ("soft", "dir", "fifo"):
            with pytest.raises(OSError, match=r"a link, not a file|not a regular file"):
                files.read(name)
        with pytest.raises(NotADirectoryError):
            files.read("real/x.jpg")


def test_the_last_of_two_members_counts(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", {"a": b"old"})
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("a")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    with open_files(path) as files:
        assert files.read("a") == b"new"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


def spoil_a_header(path: Path) -> None:
    data = path.read_bytes()
    place = data.index(b"ustar", 40_000) - 100
    path.write_bytes(data[:place] + b"?" * 8 + data[place + 8 :])


def cut_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes())[:-3000])


def cut_zip(path: Path) -> None:
    path.write_bytes(zip_of(path, FILES).read_bytes()[:-3000])


def scribble(path: Path) -> None:
    path.write_bytes(b"no tar at all" * 100)


@pytest.mark.parametrize("damage", [cut, cut_gzip, cut_zip, spoil_a_header, scribble])
def test_a_damaged_tar_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tar_of(tmp_path / "x.tar", FILES)
    damage(path)
    with pytest.raises(DataError, match=r"x\.tar' cannot be read as a tar or zip file"), open_files(path):
        pass


@settings(max_examples=150, deadline=5000)
@given(
    st.sampled_from(["pax", "gnu", "gzip", "zip", "joined"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.floats(0.5, 1.5),
)
def test_bytes_changed_at_random_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, form: str, changes: list[tuple[float, int]], kept: float
) -> None:
    path = ROOTS[form](tmp_path_factory.mktemp("random"))
    data = bytearray(path.read_bytes())
    data = data[: int(len(data) * kept)]
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    path.write_bytes(data)
    with suppress(DataError), open_files(path) as files:
        for name in [*files.paths(), "faces/none.jpg"]:
            with suppress(OSError):
                files.read(name)


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    data = bytearray(zip_of(tmp_path / "x.zip", {"a.jpg": b"a"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.zip' is encrypted: unpack it"), open_files(tmp_path / "x.zip"):
        pass


def test_a_tar_cut_while_open(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", FILES)
    with open_files(path) as files:
        os.truncate(path, 20_000)
        with pytest.raises(OSError, match="cut short"):
            files.read(list(FILES)[39])


@pytest.mark.parametrize("ending", [".tar", ".TAR", ".tar.gz", ".tgz", ".zip"])
def test_the_archive_beside_the_csv_comes_first(tmp_path: Path, ending: str) -> None:
    csv = tmp_path / "faces.v2.csv"
    assert image_root(csv, "a.jpg") == tmp_path
    tar_of(tmp_path / f"faces.v2{ending}", FILES)
    assert image_root(csv, "a.jpg") == tmp_path / f"faces.v2{ending}"
    zip_of(tmp_path / "faces.v2.Zip", FILES)
    with pytest.raises(DataError, match=r"'faces\.v2.*' and 'faces\.v2.*' are both beside .*: remove one"):
        image_root(csv, "a.jpg")


def test_a_csv_that_is_a_link(tmp_path: Path) -> None:
    folder_of(tmp_path / "target", {"faces.csv": b"", "a.jpg": b"a"})
    folder_of(tmp_path / "own", {"b.jpg": b"b"})
    link = tmp_path / "own" / "faces.csv"
    link.symlink_to("../target/faces.csv")
    assert image_root(link, "b.jpg") == image_root(link, "none.jpg") == tmp_path / "own"
    assert image_root(link, "a.jpg") == tmp_path / "target"


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "empty"),
        (".", "empty"),
        ("./", "empty"),
        (" ", "empty"),
        ("a\0b", "NUL"),
        ("a\rb", "control"),
        ("a\nb", "control"),
        ("a\\b", "backslash"),
        ("/a", "absolute"),
        ("//a/b", "absolute"),
        ("c:a", "absolute"),
        ("a/../b", "upwards"),
        ("..", "upwards"),
    ],
)
def test_unfit_paths(path: str, fault: str) -> None:
    assert fault in str(path_fault(path))


@pytest.mark.parametrize("path", ["a.jpg", "a/b.jpg", "./a", "a..b/c...jpg", "~/a", "-rf", "a b"])
def test_fit_paths(path: str) -> None:
    assert path_fault(path) is None


@given(st.lists(st.sampled_from(["/", "..", ".", "a", "\\", "\0", "c:", " "]), max_size=8).map("".join))
def test_a_fit_path_stays_inside(path: str) -> None:
    if path_fault(path) is None:
        assert os.path.normpath(os.path.join("/root", path)).startswith("/root/")  # noqa: PTH118
