"""Notice that this process hangs, say where, and end it."""

import faulthandler
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from jaxage.utils import cluster

SECONDS, TIMES = 600.0, 50
"""A beat is overdue after so long, or after so many times the median of the last ones, whichever is longer."""

EXIT = 75
"""EX_TEMPFAIL of sysexits.h: the same may work when it is started again."""


class Watchdog:
    """Ends the process with status 75 and the stacks of all threads if beats stop. Only where processes wait for one
    another: one by itself may be suspended and go on.

    Args:
        where: Says what was under way.
    """

    def __init__(self, where: Callable[[], str]) -> None:
        self._where, self._ended = where, threading.Event()
        self._last, self._between = time.monotonic(), deque[float](maxlen=100)

    def __enter__(self) -> "Watchdog":
        if cluster.count() > 1:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()

    def beat(self) -> None:
        """Say that the work goes on."""
        now = time.monotonic()
        self._between.append(now - self._last)
        self._last = now

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            patience = max(SECONDS, TIMES * statistics.median(self._between or [0.0]))
            if (silent := time.monotonic() - self._last) > patience:
                print(
                    f"error: process {cluster.index()} hangs since {silent:.0f} s: {self._where()}; another process, "
                    "the network or a disk does not answer. Start again with --resume",
                    file=sys.stderr,
                )
                faulthandler.dump_traceback()
                cluster.leave_at_once(EXIT)
