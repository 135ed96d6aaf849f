import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from jaxage.commands.photo_rows import photo_json
from jaxage.commands.predict import predict
from jaxage.commands.serve.app import make_app
from jaxage.commands.serve.run import make_service, serve
from jaxage.commands.serve.schema import SCHEMA
from jaxage.types import UserError
from tests.browser import chromium

uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.usefixtures("own_cache", "tiny", "network")


@pytest.fixture(scope="module")
def server(photo_model: Path) -> Iterator[tuple[str, Any]]:
    """The page's address, and the service behind it."""
    service = make_service(photo_model, 0.9)
    config = uvicorn.Config(make_app(service), port=0, log_level="warning", server_header=False)
    socket = config.bind_socket()
    made = uvicorn.Server(config)
    thread = threading.Thread(target=made.run, kwargs={"sockets": [socket]})
    thread.start()
    yield f"http://127.0.0.1:{socket.getsockname()[1]}", service
    made.should_exit = True
    thread.join()


def post(url: str, data: bytes, path: str = "/api/predict") -> requests.Response:
    return requests.post(url + path, data=data, timeout=60)


def test_the_answers_are_those_of_predict(server: tuple[str, Any], photo_model: Path, photos: Path) -> None:
    url, _ = server
    for name in ("a group.png", "crop.png"):
        answer = post(url, (photos / name).read_bytes()).json()
        (photo,) = predict(photo_model, [photos / name])
        expected = photo_json(photo)
        assert len(answer["faces"]) == len(expected)
        for face, row in zip(answer["faces"], expected, strict=True):
            assert face.keys() == row.keys() - {"path"}
            assert face["age"] == pytest.approx(row["age"], abs=1e-3)
            assert (face["left"], face["low"] <= face["age"] <= face["high"]) == (row["left"], True)
        assert answer.keys() == set(SCHEMA["required"])
        assert answer["faces"][0].keys() == SCHEMA["properties"]["faces"]["items"]["properties"].keys()
    white = post(url, (photos / "white.jpg").read_bytes())
    assert (white.status_code, white.json()["faces"], white.json()["reason"]) == (200, [], "no face found")
    assert requests.get(url + "/api/schema", timeout=60).json() == SCHEMA
    assert requests.get(url + "/healthz", timeout=60).json() == {"status": "ok"}


def test_requests_at_once_are_answered_together(server: tuple[str, Any], photos: Path) -> None:
    url, service = server
    steps: list[int] = []
    predictor = service.predictor._predictor

    def counting(crops: Any) -> Any:
        steps.append(len(crops))
        time.sleep(0.2)
        return predictor(crops)

    service.predictor._predictor = counting
    try:
        data = (photos / "crop.png").read_bytes()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(url, data), range(16)))
    finally:
        service.predictor._predictor = predictor
    assert np.ptp([answer.json()["faces"][0]["age"] for answer in answers]) < 1e-3
    assert sum(steps) == 16
    assert len(steps) < 16


@pytest.mark.parametrize(
    ("data", "path", "status", "words"),
    [
        (b"", "/api/predict", 400, "no body"),
        (b"no image", "/api/predict", 415, "not an image"),
        (b"\xff\xd8\xff\xe0 nonsense", "/api/predict", 400, "cannot be used: truncated"),
        (b"x" * 2_000_001, "/api/predict", 413, "more than 2 MB"),
        (b"x", "/api/predict?faces=all", 400, "faces must be one of auto, crop, photo"),
    ],
)
def test_what_cannot_be_answered_has_a_status_and_a_sentence(
    server: tuple[str, Any], data: bytes, path: str, status: int, words: str
) -> None:
    url, service = server
    object.__setattr__(service, "max_bytes", 2_000_000)
    answer = post(url, data, path)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "Traceback" not in answer.text
    streamed = requests.post(url + path, data=iter([data[:1000], data[1000:]]), timeout=60)  # without a length
    assert streamed.status_code == status


def test_too_many_pixels_and_a_wrong_face_are_refused(
    server: tuple[str, Any],
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, _ = server
    data = (photos / "crop.png").read_bytes()
    assert "from 1 to 1, got 7" in post(url, data, "/api/explain?face=7").json()["error"]
    picture = post(url, data, "/api/explain?face=1")
    assert Image.open(io.BytesIO(picture.content)).size == (1200, 720)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert (post(url, data).status_code, "1,000 pixels" in post(url, data).text) == (413, True)


def test_too_many_requests_are_turned_away(server: tuple[str, Any], photos: Path) -> None:
    url, service = server
    held = service.places._value
    service.places._value = 0
    try:
        answer = post(url, (photos / "crop.png").read_bytes())
    finally:
        service.places._value = held
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_nothing_comes_from_elsewhere(server: tuple[str, Any]) -> None:
    url, _ = server
    for path in ("/", "/page.js", "/page.css", "/api/model"):
        answer = requests.get(url + path, timeout=60)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "Server" not in answer.headers
        assert "//" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert requests.get(url + "/nowhere", timeout=60).status_code == 404
    assert requests.get(url + "/api/predict", timeout=60).status_code == 405


def test_a_browser_shows_what_was_dropped(server: tuple[str, Any], photos: Path) -> None:
    url, _ = server
    with chromium() as browser:
        for width in (390, 1280):
            browser.open(url, width)
            browser.drop(photos / "a group.png")
            browser.wait("document.querySelectorAll('li').length == 3")
            assert browser.run("return document.querySelectorAll('rect.inner').length") == 3
            assert "Face 1:" in browser.text()
            browser.run("document.querySelector('li button').click()")
            browser.wait("document.querySelector('li figure img')?.naturalWidth == 1200")
            browser.drop(photos / "broken.jpg")
            browser.wait(
                "document.querySelector('#status').textContent.includes('broken.jpg: The photo cannot be used')"
            )
            browser.drop(photos / "white.jpg")
            browser.wait("document.body.innerText.includes('No face was found')")
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_a_signal_ends_it_when_all_is_answered(photo_model: Path, photos: Path) -> None:
    command = [sys.executable, "-m", "tests.tiny_cli", "serve", str(photo_model), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    url = process.stdout.readline().split()[1]
    data = (photos / "a group.png").read_bytes()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, url, data)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert len(json.loads(answer.result().text)["faces"]) == 3
    process.stdout.close()
    assert process.wait(30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_port_that_is_taken_is_named(server: tuple[str, Any], photo_model: Path) -> None:
    port = int(server[0].rsplit(":", 1)[1])
    with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had"):
        serve(photo_model, port=port, log=lambda _: None)
