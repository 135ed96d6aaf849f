"""A headless Chromium driven through WebDriver, for tests of pages."""

import base64
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], arguments[0]));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
"""


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def _do(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, self._session + path, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()["value"]

    def open(self, url: str, width: int, height: int = 1400) -> None:
        self._do("POST", "/window/rect", {"width": width, "height": height})
        self._do("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._do("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def drop(self, file: Path) -> None:
        """Drop a file on the page, as from a file manager."""
        self.run(_DROP, file.name, base64.b64encode(file.read_bytes()).decode())

    def wait(self, condition: str, seconds: float = 30) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}")):
            assert time.monotonic() < end, f"{condition} did not become true: {self.text()}"
            time.sleep(0.1)
        return value

    def text(self) -> str:
        text: str = self.run("return document.body.innerText")
        return text

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._do("GET", "/screenshot")))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, or a skip where Chromium and its driver are not installed."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or binary is None:
        pytest.skip("needs chromium and chromedriver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(100):
                try:
                    requests.get(f"{url}/status", timeout=5)
                    break
                except requests.ConnectionError:
                    time.sleep(0.1)
            options = {"binary": binary, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            session = requests.post(f"{url}/session", json=wanted, timeout=60).json()["value"]["sessionId"]
            yield Browser(f"{url}/session/{session}")
            requests.delete(f"{url}/session/{session}", timeout=60)
        finally:
            process.terminate()
            process.wait()
