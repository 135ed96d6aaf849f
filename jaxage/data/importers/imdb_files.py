"""Find the crops of IMDB-WIKI: in an extracted folder, or in the published tar file, which is read in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from jaxage.data.files import ReadImage, open_files
from jaxage.data.importers.imdb_mat import Collection
from jaxage.data.importers.importer import LayoutError
from jaxage.data.records import DataError
from jaxage.utils.text import quoted


@contextmanager
def open_crops(root: Path, collection: Collection) -> Iterator[tuple[str, bytes, ReadImage]]:
    """Name and bytes of the .mat file, and a function that reads an image by the path that this file gives.

    Args:
        root: A folder that holds `imdb.mat`, `imdb_crop/imdb.mat` or `imdb_crop.tar`; that tar; or the .mat file. These
            may be links, but the images may not.
        collection: "imdb", or "wiki" for `wiki.mat`, `wiki_crop` and so on.

    Raises:
        DataError: if `root` is none of these.
    """
    mat, name = f"{collection}.mat", f"{collection}_crop"
    if root.suffix == ".mat":
        mat, root = root.name, root.parent
    for folder in (root, root / name):
        if (folder / mat).is_file():
            with open_files(folder.resolve()) as files:
                yield str(folder / mat), (folder / mat).read_bytes(), files.read
                return
    for tar in (root, root / f"{name}.tar"):
        if tar.is_file():
            with open_files(tar) as files:
                for prefix in ("", f"{name}/"):
                    try:
                        data = files.read(prefix + mat)
                    except FileNotFoundError:
                        continue
                    yield f"{tar}/{prefix}{mat}", data, partial(_below, files.read, prefix)
                    return
    message = f"{quoted(root)}: neither {mat} is there nor a {name}.tar that holds it: give the folder with one of them"
    if not root.is_dir():
        raise DataError(message)
    with open_files(root) as files:
        raise LayoutError(message, files.paths())


def _below(read: ReadImage, prefix: str, path: str) -> bytes:
    return read(prefix + path)
