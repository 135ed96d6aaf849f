"""The web application: one page, and the JSON endpoint that it uses. Nothing is stored."""

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from jaxage.commands.explain import Explainer
from jaxage.commands.photo_rows import photo_json
from jaxage.commands.predict import name_faces
from jaxage.commands.serve.batching import BatchedPredictor
from jaxage.commands.serve.schema import SCHEMA
from jaxage.data.decode import ImageError, TooManyPixelsError, UnknownFormatError, open_image
from jaxage.photos.faces import FaceFinder, FoundFace
from jaxage.report.saliency import overlay_png
from jaxage.types import FacesIn, Json
from jaxage.utils.extras import require

_PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MEGABYTE = 1_000_000


class RequestError(Exception):
    """A request that cannot be answered: the HTTP status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, eq=False)
class Service:
    """What answers requests.

    finders: Finds faces, for each way of looking for them.
    predictor: Gives their ages.
    explainer: Shows what it looked at.
    about: What the page says of the model.
    max_bytes: The largest photo.
    max_waiting: Requests at once; further ones are turned away.
    """

    finders: dict[FacesIn, FaceFinder]
    predictor: BatchedPredictor
    explainer: Explainer
    about: Json
    pool: ThreadPoolExecutor
    max_bytes: int = 20 * _MEGABYTE
    max_waiting: int = 64

    @cached_property
    def places(self) -> asyncio.Semaphore:
        """A place for each request that may wait."""
        return asyncio.Semaphore(self.max_waiting)

    async def predict(self, request: Any) -> Json:
        """The faces of the photo in the request's body."""
        image, found = await self._find(request)
        estimates = await self.predictor([face.pixels for face in found if face.pixels is not None])
        photo = name_faces("", found, iter(estimates))
        rows = [{name: value for name, value in row.items() if name != "path"} for row in photo_json(photo)]
        return {
            "width": image.width,
            "height": image.height,
            "faces": rows if found else [],
            "reason": "" if found else "no face found",
        }

    async def explain(self, request: Any) -> bytes:
        """A PNG of what the network looked at in one face of the photo in the request's body."""
        _, found = await self._find(request)
        text = request.query_params.get("face", "1")
        number = int(text) if text.isdecimal() else 0
        if not 1 <= number <= len(found):
            raise RequestError(400, f"face must be a number from 1 to {len(found)}, got {text}")
        pixels = found[number - 1].pixels
        if pixels is None:
            raise RequestError(400, "this face is too small")

        def draw() -> bytes:
            age, evidence = self.explainer(pixels)
            return overlay_png(pixels, evidence, f"{age:.1f} years")

        return await self.predictor.alone(draw)

    async def _find(self, request: Any) -> tuple[Image.Image, list[FoundFace]]:
        faces = request.query_params.get("faces", "auto")
        if faces not in self.finders:
            raise RequestError(400, f"faces must be one of {', '.join(get_args(FacesIn))}, got {faces}")
        data = await self._read(request)
        finder = self.finders[faces]

        def find() -> tuple[Image.Image, list[FoundFace]]:
            image = open_image(data)
            return image, finder(image)

        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, find)
        except UnknownFormatError as error:
            raise RequestError(415, "this is not an image in a format that can be read") from error
        except TooManyPixelsError as error:
            raise RequestError(413, f"the photo has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
        except ImageError as error:
            raise RequestError(400, f"the photo cannot be used: {error}") from error

    async def _read(self, request: Any) -> bytes:
        too_large = RequestError(413, f"the photo has more than {self.max_bytes / _MEGABYTE:g} MB")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            raise too_large
        data = io.BytesIO()
        async for part in request.stream():
            if data.tell() + len(part) > self.max_bytes:
                raise too_large
            data.write(part)
        if not data.tell():
            raise RequestError(400, "the request has no body: send the bytes of a photo")
        return data.getvalue()


def make_app(service: Service) -> Any:
    """The Starlette application. Raises UserError if the extra `serve` is not installed."""
    require("starlette", "serve", "jaxage serve")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def page(request: Request) -> Response:
        name, kind = _FILES[request.url.path]
        return Response((_PAGE / name).read_bytes(), media_type=kind, headers=_HEADERS)

    async def answer(request: Request) -> Response:
        if service.places.locked():
            return JSONResponse({"error": "too many photos at once: try again"}, 503, {**_HEADERS, "Retry-After": "1"})
        async with service.places:
            try:
                if request.url.path == "/api/explain":
                    return Response(await service.explain(request), media_type="image/png", headers=_HEADERS)
                return JSONResponse(await service.predict(request), headers=_HEADERS)
            except RequestError as error:
                return JSONResponse({"error": str(error)}, error.status, _HEADERS)

    def fixed(value: Json) -> Any:
        async def respond(request: Request) -> Response:
            return Response(json.dumps(value, indent=2), media_type="application/json", headers=_HEADERS)

        return respond

    return Starlette(
        routes=[
            *(Route(path, page) for path in _FILES),
            Route("/api/predict", answer, methods=["POST"]),
            Route("/api/explain", answer, methods=["POST"]),
            Route("/api/model", fixed(service.about)),
            Route("/api/schema", fixed(SCHEMA)),
            Route("/healthz", fixed({"status": "ok"})),
        ]
    )
