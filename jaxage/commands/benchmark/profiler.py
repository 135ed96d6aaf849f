"""What devices and host do while something runs, from JAX's own profiler."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

Kind = Literal["compute", "wait", "host"]

_WAITS = ("rendezvous", "wait")
_IDLE = 0.01


class Span(NamedTuple):
    """Milliseconds from the start of the recording, and what was done."""

    start: float
    duration: float
    kind: Kind


def record(run: Callable[[], object]) -> dict[str, list[Span]]:
    """The spans of each thread of the host and each stream of a device while `run` runs; idle ones are left out.

    "wait" is where devices wait for each other, "host" what Python's thread spends on giving out work.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory(prefix="jaxage-profile-") as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(trace) as file:
            return lanes(json.load(file)["traceEvents"])


def lanes(events: list[dict[str, Any]]) -> dict[str, list[Span]]:
    """Spans by lane, the busiest first, from events of Chrome's trace format (microseconds)."""
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
    """Milliseconds that the spans cover, nested ones once."""
    covered, end = 0.0, float("-inf")
    for start, duration, _ in sorted(spans):
        covered += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
    return covered
