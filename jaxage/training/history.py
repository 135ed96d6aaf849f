"""The history of a run on disk: a line per epoch, and events where they were asked for."""

import json
from collections.abc import Sequence

from jaxage.report.event_file import write_events
from jaxage.training.run_folder import Run
from jaxage.types import Json
from jaxage.utils import cluster
from jaxage.utils.files import write_text

HISTORY, EVENTS = "metrics.jsonl", "tensorboard"


def write_history(run: Run, history: Sequence[Json]) -> None:
    """Write `metrics.jsonl` and, with `--tensorboard`, the same entries as events into `tensorboard/`. Only the first
    process writes.
    """
    if not cluster.is_first():
        return
    write_text(run.folder / HISTORY, "".join(json.dumps(line) + "\n" for line in history))
    if run.config.tensorboard:
        write_events(run.folder / EVENTS, history)
