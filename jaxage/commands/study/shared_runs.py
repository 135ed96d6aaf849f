"""Train the runs of a study, together with other processes that work in the same folder."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxage.commands.study.recipes import ModelSpec, Protocol
from jaxage.commands.study.summary import FailedRun, Result, read_result
from jaxage.commands.train import train
from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset
from jaxage.training.run_folder import REPORT, BusyError, RunError
from jaxage.types import Diverged, Json, Log, Stopped
from jaxage.utils.files import write_text

_POLL_S = 1.0


@dataclass(frozen=True)
class PlannedRun:
    """One training run: the protocol, the model, the seed, and the folder."""

    protocol: Protocol
    model: ModelSpec
    seed: int
    folder: Path


def train_all(
    settings: Mapping[PlannedRun, TrainConfig], data: Mapping[Protocol, Dataset], log: Log
) -> tuple[list[Result], list[FailedRun]]:
    """The results of all runs, those of other processes included, and the runs that diverged.

    A run that another process trains is left to it, and tried again later: that process may have been lost.
    """
    started, seconds = time.time(), list[float]()
    reports, failed = dict[PlannedRun, Json](), dict[PlannedRun, str]()
    waiting, announced = list(settings), 0
    while waiting:
        busy = list[PlannedRun]()
        for run in waiting:
            before = time.perf_counter()
            fresh = not (run.folder / REPORT).exists()
            try:
                reports[run] = _train_one(run, settings, started, log if fresh else lambda _: None)
            except Diverged as error:
                failed[run] = str(error).partition("; ")[0]
                log(f"   left out: {failed[run]}")
            except BusyError:
                busy.append(run)
            else:
                if fresh:
                    seconds.append(time.perf_counter() - before)
                    rest = [each for each in settings if each not in reports and each not in failed]
                    log(f"   {_time_left(rest, seconds)}")
        if busy and len(busy) != announced:
            log(f"runs trained by other processes: {len(busy)}, waiting for them")
            announced = len(busy)
        if len(busy) == len(waiting):
            time.sleep(_POLL_S)
        waiting = busy
    return (
        [
            read_result(run.protocol, run.model, run.seed, run.folder, reports[run], data[run.protocol])
            for run in settings
            if run in reports
        ],
        [{"run": _title(run), "reason": failed[run]} for run in settings if run in failed],
    )


def _train_one(run: PlannedRun, settings: Mapping[PlannedRun, TrainConfig], started: float, log: Log) -> Json:
    """The report of a run. A divergence is noted for the other processes of this study."""
    place = f"run {list(settings).index(run) + 1} of {len(settings)}"
    note = run.folder.with_name(f".{run.folder.name}.diverged")
    if note.exists() and note.stat().st_mtime > started:
        raise Diverged(note.read_text(encoding="utf-8"))

    try:
        return train(settings[run], _with_heading(f"\n== {place}: {_title(run)}", log))
    except Diverged as error:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, str(error))
        raise
    except BusyError:
        raise
    except Stopped as stop:
        raise Stopped(f"stopped in {place}; the same command continues there", stop.signum) from stop
    except RunError as error:
        raise RunError(f"{place} ({_title(run)}): {error}. Finished runs are kept") from error


def _with_heading(heading: str, log: Log) -> Log:
    """A log that has the heading before its first line."""
    pending = [heading]

    def say(line: str) -> None:
        while pending:
            log(pending.pop())
        log(line)

    return say


def _title(run: PlannedRun) -> str:
    return f"{run.protocol}, {run.model.name}, seed {run.seed}"


def _time_left(rest: list[PlannedRun], seconds: list[float]) -> str:
    """An estimate from the mean time of the runs so far."""
    missing = [run for run in rest if not (run.folder / REPORT).exists()]
    minutes = len(missing) * sum(seconds) / len(seconds) / 60
    left = f"about {minutes // 60:.0f} h {minutes % 60:02.0f} min"
    return f"runs left: {len(missing)}, {left}" if missing else "all runs are done"
