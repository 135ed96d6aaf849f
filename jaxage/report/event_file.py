"""The history of a run as an event file, which TensorBoard and others draw."""

import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxage.metrics import METRICS
from jaxage.types import Json
from jaxage.utils.extras import require

EVENT_FILE = "events.out.tfevents.jaxage"
_TAGS = {"train_loss": "train/loss", "learning_rate": "train/learning_rate"}


def require_writer() -> None:
    """Raise UserError if the library that events need is missing."""
    require("tensorboardX", "tensorboard", "--tensorboard")


def write_events(folder: Path, history: Sequence[Json]) -> None:
    """Make the event file in `folder` hold exactly a history: an event for each entry, with its scalars.

    Events that are there already stay as they are, with their times; others, and one that was cut off, are removed;
    what is missing is appended. So a program that follows the file sees it grow, also when a run was resumed.

    Args:
        folder: Made if need be.
        history: What `metrics.jsonl` holds. A value that is None is left out.

    Raises:
        UserError: if the extra `tensorboard` is missing.
        OSError: if the file cannot be written.
    """
    require_writer()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [_event(time.time(), file_version="brain.Event:2"), *map(_event_of, history)]
    with (folder / EVENT_FILE).open("a+b") as file:
        file.seek(0)
        data, kept, end = file.read(), 0, 0
        for event, offset in _events_in(data):
            if kept == len(wanted) or not _says_the_same(event, wanted[kept]):
                break
            kept, end = kept + 1, offset
        if end < len(data):
            file.truncate(end)
        file.write(b"".join(_record(event.SerializeToString()) for event in wanted[kept:]))


def scalars_of(entry: Json) -> dict[str, float]:
    """The scalars of an entry of a history by their tags: "train/loss", "validation/MAE" and so on."""
    titles = {name: metric.title for name, metric in METRICS.items()}
    validation = {f"validation/{titles.get(name, name)}": value for name, value in entry["validation"].items()}
    others = {tag: entry[name] for name, tag in _TAGS.items() if name in entry}
    return {tag: value for tag, value in (others | validation).items() if value is not None}


def _event_of(entry: Json) -> Any:
    summary = _proto("summary_pb2").Summary
    values = [summary.Value(tag=tag, simple_value=value) for tag, value in scalars_of(entry).items()]
    return _event(time.time(), step=entry.get("step", entry["epoch"]), summary=summary(value=values))


def _event(wall_time: float, **fields: Any) -> Any:
    return _proto("event_pb2").Event(wall_time=wall_time, **fields)


def _says_the_same(event: Any, other: Any) -> bool:
    same = type(event)()
    same.CopyFrom(event)
    same.wall_time = other.wall_time
    return bool(same == other)


def _record(data: bytes) -> bytes:
    """A record of a TFRecord file: length, its checksum, data, their checksum."""
    checksum = require("tensorboardX.record_writer", "tensorboard", "--tensorboard").masked_crc32c
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", checksum(length)) + data + struct.pack("<I", checksum(data))


def _events_in(data: bytes) -> Iterator[tuple[Any, int]]:
    """Each event of a TFRecord file up to the first record that is broken, and where the record ends."""
    kind, start = _proto("event_pb2").Event, 0
    while len(data) >= start + 12:
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + 12 + length + 4
        content = data[start + 12 : start + 12 + length]
        if data[start:end] != _record(content):
            return
        yield kind.FromString(content), end
        start = end


def _proto(module: str) -> Any:
    return require(f"tensorboardX.proto.{module}", "tensorboard", "--tensorboard")
