"""What the host and the devices do over time, recorded by JAX's profiler."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from jaxage.types import Json

Kind = Literal["compute", "wait", "host"]

_WAITS = ("rendezvous", "wait")
_IDLE = 0.01


class Span(NamedTuple):
    """One piece of work: milliseconds from the start of the recording, milliseconds it took, and its kind.

    kind: "compute", "wait" (devices wait for each other) or "host" (Python dispatches work).
    """

    start: float
    duration: float
    kind: Kind


def record(run: Callable[[], object]) -> dict[str, list[Span]]:
    """Record the spans of each host thread and device stream while `run` runs. Idle ones are left out."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory(prefix="jaxage-profile-") as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(trace) as file:
            return lanes(json.load(file)["traceEvents"])


def lanes(events: list[Json]) -> dict[str, list[Span]]:
    """Sort the events of a Chrome trace (microseconds) into lanes, one for each thread or stream, the busiest first."""
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    found: dict[tuple[int, int], list[Span]] = {}
    for event in events:
        if event.get("ph") != "X":
            continue
        place = event["pid"], event["tid"]
        waits = any(word in event["name"].lower() for word in _WAITS)
        kind: Kind = "host" if threads.get(place) == "python" else "wait" if waits else "compute"
        found.setdefault(place, []).append(Span(event["ts"] / 1000, event.get("dur", 0) / 1000, kind))
    first = min((span.start for spans in found.values() for span in spans), default=0.0)
    moved = {place: [span._replace(start=span.start - first) for span in spans] for place, spans in found.items()}
    longest = max((busy(spans) for spans in moved.values()), default=0.0)
    order = sorted(moved.items(), key=lambda item: -busy(item[1]))
    named = ((f"{processes.get(p, p)} {threads.get((p, t), t).partition('/')[0]}", spans) for (p, t), spans in order)
    return {f"{i + 1}: {name}": spans for i, (name, spans) in enumerate(named) if busy(spans) > _IDLE * longest}


def busy(spans: list[Span]) -> float:
    """The milliseconds that the spans cover. Nested spans count once."""
    covered, end = 0.0, float("-inf")
    for start, duration, _ in sorted(spans):
        covered += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
    return covered
