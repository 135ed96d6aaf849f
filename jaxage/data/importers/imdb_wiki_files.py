"""Where the crops of IMDB-WIKI lie: an extracted folder, or the published tar file, which stays packed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from jaxage.data.files import Read, open_source
from jaxage.data.importers.imdb_wiki import Collection
from jaxage.data.records import DataError


@contextmanager
def open_crops(root: Path, collection: Collection) -> Iterator[tuple[str, bytes, Read]]:
    """Name and bytes of the .mat file, and a reader of the images by the paths that it gives.

    `root` is a folder with `imdb.mat` or with `imdb_crop/imdb.mat` in it, a folder with `imdb_crop.tar`, that tar, or
    the .mat file itself; `wiki` likewise. These may be links, the images not. Raises DataError if it is none of them.
    """
    mat, name = f"{collection}.mat", f"{collection}_crop"
    if root.suffix == ".mat":
        mat, root = root.name, root.parent
    for folder in (root, root / name):
        if (folder / mat).is_file():
            with open_source(folder.resolve()) as read:
                yield str(folder / mat), (folder / mat).read_bytes(), read
                return
    for tar in (root, root / f"{name}.tar"):
        if tar.is_file():
            with open_source(tar) as read:
                for prefix in ("", f"{name}/"):
                    try:
                        data = read(prefix + mat)
                    except FileNotFoundError:
                        continue
                    yield f"{tar}/{prefix}{mat}", data, partial(_below, read, prefix)
                    return
    raise DataError(
        f"{root}: neither {mat} is there nor a {name}.tar that holds it: give the extracted {name} folder, or the "
        "one with the tar in it"
    )


def _below(read: Read, prefix: str, path: str) -> bytes:
    return read(prefix + path)
