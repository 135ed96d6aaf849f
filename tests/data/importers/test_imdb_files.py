import shutil
import tarfile
from pathlib import Path

import pytest

from jaxage.data.importers.imdb_files import open_crops
from jaxage.data.records import DataError

FILES = {"imdb.mat": b"matrix", "00/a.jpg": b"face"}


def write(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed(folder: Path, prefix: str = "imdb_crop") -> Path:
    write(folder / "source")
    with tarfile.open(folder / "imdb_crop.tar", "w") as tar:
        tar.add(folder / "source", prefix)
    shutil.rmtree(folder / "source")
    return folder


def linked(folder: Path, what: str) -> Path:
    """A place that holds a link to the folder, or to the .mat file of a folder."""
    source = write(folder / "source")
    root = folder / "imdb_crop"
    if what:
        (source / what).rename(folder / what)
        (source / what).symlink_to(folder / what)
        return source
    root.symlink_to(source)
    return folder


@pytest.mark.parametrize(
    "form", ["tree", "parent", "mat", "tar", "tar's folder", "dotted tar", "flat tar", "linked mat", "linked folder"]
)
def test_every_place_that_a_user_may_name(tmp_path: Path, form: str) -> None:
    root = {
        "tree": lambda: write(tmp_path),
        "parent": lambda: write(tmp_path / "imdb_crop").parent,
        "mat": lambda: write(tmp_path) / "imdb.mat",
        "tar": lambda: packed(tmp_path) / "imdb_crop.tar",
        "tar's folder": lambda: packed(tmp_path),
        "dotted tar": lambda: packed(tmp_path, "./imdb_crop"),
        "flat tar": lambda: packed(tmp_path, ""),
        "linked mat": lambda: linked(tmp_path, "imdb.mat"),
        "linked folder": lambda: linked(tmp_path, ""),
    }[form]()
    with open_crops(root, "imdb") as (where, mat, read):
        assert where.endswith("imdb.mat")
        assert mat == b"matrix"
        assert read("00/a.jpg") == b"face"
        with pytest.raises(FileNotFoundError):
            read("00/b.jpg")


def test_a_place_with_nothing_is_named_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path)
    for root, name in ((tmp_path, "wiki"), (tmp_path / "none", "imdb"), (tmp_path / "other.mat", "imdb")):
        with pytest.raises(DataError, match=r"neither .*\.mat is there nor a \w+_crop\.tar"), open_crops(root, name):  # type: ignore[arg-type]
            pass
