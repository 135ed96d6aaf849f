"""`jaxage serve`: a page and a JSON endpoint for a trained model."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np

from jaxage.commands.explain import make_explainer
from jaxage.commands.serve.app import Service, make_app
from jaxage.commands.serve.batching import BatchedPredictor
from jaxage.data.decode import strict_warnings
from jaxage.models.registry import find_network
from jaxage.photos.faces import make_face_finder
from jaxage.training.export import load_model
from jaxage.training.predictor import load_predictor
from jaxage.types import FacesIn, Log, UserError
from jaxage.utils.extras import require

_BATCH, _SECONDS_TO_FINISH = 16, 30
_HERE = ("127.0.0.1", "localhost", "::1")


def serve(run: Path, host: str = "127.0.0.1", port: int = 8000, coverage: float = 0.9, log: Log = print) -> None:
    """Serve a model until a signal; requests in flight are finished.

    Args:
        run: The folder of a finished run, or its `model/` folder.
        host: The address to listen on.
        port: The port.
        coverage: The probability with which intervals are to hold the true age.
        log: Takes the page's address.

    Raises:
        UserError: for a run without a model, a missing extra `serve` or `photos`, or a port that cannot be had.
        WeightsUnavailableError: if the detector cannot be downloaded.
    """
    uvicorn = require("uvicorn", "serve", "jaxage serve")
    app = make_app(make_service(run, coverage))
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )
    if host not in _HERE:
        log(f"warning: {host} can be reached from other machines, without any password")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"port {port} of {host} cannot be had ({error.strerror}): choose another --port") from error
    with listening, strict_warnings():
        name = f"[{host}]" if ":" in host else host
        log(f"open http://{name}:{listening.getsockname()[1]} (stop with Ctrl-C)")
        uvicorn.Server(config).run(sockets=[listening])


def make_service(run: Path, coverage: float) -> Service:
    """Load the model of a run, and compile all that requests need."""
    variables, config = load_model(run)
    predictor = load_predictor(run, _BATCH, coverage)
    explainer, shown = make_explainer(variables, config)
    blank = np.zeros((1, config.image_size, config.image_size, 3), np.uint8)
    predictor(blank)
    explainer(blank[0])
    kinds: tuple[FacesIn, ...] = get_args(FacesIn)
    about = {
        "network": find_network(config.arch).title,
        "coverage": coverage if config.intervals else None,
        "distribution": config.has_distribution(),
        "shown": shown,
    }
    return Service(
        finders={faces: make_face_finder(faces, config.image_size, config.input(), config.framing) for faces in kinds},
        predictor=BatchedPredictor(predictor),
        explainer=explainer,
        about=about,
        pool=ThreadPoolExecutor(os.cpu_count(), "faces"),
    )
