"""Estimate the faces of several requests in one step of the network."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from jaxage.photos.detector import Pixels
from jaxage.training.predictor import Estimate, Predictor

T = TypeVar("T")


class BatchedPredictor:
    """A predictor for requests that come at once: what waits while a step runs goes into the next step together."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._waiting: list[tuple[Sequence[Pixels], asyncio.Future[list[Estimate]]]] = []
        self._thread = ThreadPoolExecutor(1, "predict")
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, crops: Sequence[Pixels]) -> list[Estimate]:
        """The ages of some crops."""
        if not crops:
            return []
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((crops, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        result: list[Estimate] = await future
        return result

    async def alone(self, function: Callable[[], T]) -> T:
        """Call a function in the predictor's thread, so that the network and matplotlib do one thing at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _run(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            crops = np.stack([crop for crops, _ in taken for crop in crops])
            try:
                estimates = await self.alone(partial(self._predictor, crops))
            except Exception as error:  # each request answers for itself
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for mine, future in taken:
                part, estimates = estimates[: len(mine)], estimates[len(mine) :]
                if not future.done():
                    future.set_result(part)
