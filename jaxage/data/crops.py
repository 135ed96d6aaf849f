"""Where the crops of IMDB-WIKI lie: an extracted folder, or the published tar file, which stays packed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from jaxage.data.imdb import Collection
from jaxage.data.records import DataError
from jaxage.data.source import Read, open_source


@contextmanager
def open_crops(root: Path, collection: Collection) -> Iterator[tuple[str, bytes, Read]]:
    """Name and bytes of the .mat file, and a reader of the images by the paths that it gives.

    `root` is a folder with `imdb.mat` or with `imdb_crop/imdb.mat` in it, a folder with `imdb_crop.tar`, that tar, or
    the .mat file itself; `wiki` likewise. Raises DataError if it is none of them.
    """
    mat, folder = f"{collection}.mat", f"{collection}_crop"
    if root.suffix == ".mat":
        mat, root = root.name, root.parent
    for source in (root, root / f"{folder}.tar"):
        if source.exists():
            with open_source(source) as read:
                for prefix in ("", f"{folder}/"):
                    try:
                        data = read(prefix + mat)
                    except OSError:
                        continue
                    yield f"{source}/{prefix}{mat}", data, partial(_below, read, prefix)
                    return
    raise DataError(
        f"{root}: neither {mat} nor {folder}.tar is there or can be read: give the extracted {folder} folder, or the "
        "one with the tar in it"
    )


def _below(read: Read, prefix: str, path: str) -> bytes:
    return read(prefix + path)
