from typing import Any

import jax
import jax.numpy as jnp

from jaxage.commands.benchmark.profiler import Span, busy, lanes, record


def event(thread: int, start: float, duration: float, name: str = "fusion") -> dict[str, Any]:
    return {"ph": "X", "pid": 1, "tid": thread, "ts": start, "dur": duration, "name": name}


NAMES: list[dict[str, Any]] = [
    {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/host:CPU"}},
    {"ph": "M", "pid": 1, "tid": 2, "name": "thread_name", "args": {"name": "python"}},
    {"ph": "M", "pid": 1, "tid": 3, "name": "thread_name", "args": {"name": "tf_XLAEigen/123"}},
    {"ph": "M", "pid": 1, "tid": 4, "name": "thread_name", "args": {"name": "idle"}},
]


def test_lanes_are_named_sorted_and_begin_at_zero() -> None:
    events = [event(2, 5000, 100), event(3, 6000, 4000), event(3, 9000, 500, "Rendezvous"), event(4, 7000, 1)]
    assert lanes(NAMES + events) == {
        "1: /host:CPU tf_XLAEigen": [Span(1.0, 4.0, "compute"), Span(4.0, 0.5, "wait")],
        "2: /host:CPU python": [Span(0.0, 0.1, "host")],
    }


def test_nested_spans_are_counted_once() -> None:
    assert busy([Span(0, 4, "compute"), Span(1, 1, "wait"), Span(3, 3, "wait"), Span(10, 1, "host")]) == 7
    assert busy([]) == 0


def test_what_runs_is_recorded() -> None:
    function = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.ones((600, 600))
    function(x).block_until_ready()
    found = record(lambda: function(x).block_until_ready())
    assert {span.kind for spans in found.values() for span in spans} >= {"compute"}
