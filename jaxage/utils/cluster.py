"""Several processes that do one job: joining them (`jax.distributed`), agreeing, and ending together.

Each process runs the same program on its own devices. The first one writes and speaks. In a process by itself every
function here returns at once.
"""

import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed  # the key-value store of jax.distributed has no public name

from jaxage.types import Log, UserError
from jaxage.utils.processes import Launch, local_devices, visible_gpus

HEARTBEAT_S, _SHUTDOWN_S = 60, 30
_POLL_S, _LINGER_S = 0.25, 1.5
_FOREVER_MS = 2**31 - 1
_VISIBLE_S = 30.0
_FAILED, _WATCHER = "jaxage/failed", "other processes"

_numbers = itertools.count()
_ended = threading.Event()

Value = TypeVar("Value")


def join(launch: Launch | None) -> None:
    """Connect to the other processes. Does nothing for a process by itself, or if `jax.distributed` runs already."""
    if launch is None or count() > 1:
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    gpus = visible_gpus()
    ids = local_devices(launch, gpus) if gpus else [0]
    if "JAX_LOCAL_DEVICE_IDS" in os.environ or (launch.coordinator is not None and launch.local_processes == 1):
        ids = []  # JAX reads the variable, and takes all devices without it
    method = "deactivate" if launch.coordinator is not None else None
    jax.distributed.initialize(
        launch.coordinator,
        launch.processes,
        launch.rank,
        local_device_ids=ids or None,
        cluster_detection_method=method,
        heartbeat_timeout_seconds=HEARTBEAT_S,
        shutdown_timeout_seconds=_SHUTDOWN_S,
    )
    threading.Thread(target=_end_with_others, daemon=True, name=_WATCHER).start()


def count() -> int:
    """How many processes there are."""
    return int(distributed.global_state.num_processes or 1)


def index() -> int:
    """The number of this process."""
    return int(distributed.global_state.process_id or 0)


def is_first() -> bool:
    """Whether this process writes and speaks."""
    return index() == 0


def quiet(log: Log) -> Log:
    """The logger of the first process; the others say nothing."""
    return log if is_first() else lambda _: None


def gather(value: Any) -> list[Any]:
    """The JSON values that all processes give, in their order, to all of them. Every process must call it."""
    if count() == 1:
        return [value]
    client, key = _client(), _next_key()
    client.key_value_set(f"{key}/{index()}", json.dumps(value))
    return [json.loads(client.blocking_key_value_get(f"{key}/{i}", _FOREVER_MS)) for i in range(count())]


def agree(value: Value) -> Value:
    """The JSON value that the first process gives, for all. Every process must call it."""
    if count() == 1:
        return value
    key = _next_key()
    if is_first():
        _client().key_value_set(key, json.dumps(value))
    found: Value = json.loads(_client().blocking_key_value_get(key, _FOREVER_MS))
    return found


def first(function: Callable[[], Value]) -> Value:
    """Call it in the first process only; all get the JSON value that it returns. An error there ends all.

    The function must not agree on anything itself.
    """
    return agree(function() if is_first() else None)  # type: ignore[return-value]


def require_same(values: Mapping[str, Any]) -> None:
    """Check that all processes have the same JSON values.

    Raises:
        UserError: which of them differ, and between which processes.
    """
    every = gather(values)
    for other, found in enumerate(every):
        changed = [name for name, value in every[0].items() if found.get(name) != value]
        if changed:
            pairs = "; ".join(f"{name}: {every[0][name]} and {found.get(name)}" for name in changed)
            raise UserError(
                f"processes 0 and {other} do not have the same {' and '.join(changed)} ({pairs}): start all with the "
                "same files, weights and versions"
            )


def require_shared(folder: Path) -> None:
    """Check that all processes see the folder of the first.

    Raises:
        UserError: if one of them does not.
    """
    if count() == 1:
        return
    token = folder / f".shared-{first(lambda: os.urandom(8).hex())}"
    first(lambda: token.write_bytes(b""))
    until = time.monotonic() + _VISIBLE_S * (not is_first())
    while not (seen := token.exists()) and time.monotonic() < until:  # network folders show new files late
        time.sleep(_POLL_S)
    blind = [i for i, each in enumerate(gather(seen)) if not each]
    first(lambda: token.unlink(missing_ok=True))
    if blind:
        raise UserError(
            f"process {blind[0]} does not see {folder} of process 0: choose a folder that all of them share"
        )


@cache
def host_names() -> list[str]:
    """The host of each process. The first call gathers them."""
    return gather(socket.gethostname())


def leave(status: int | str) -> None:
    """End this process, and all others with it; a process by itself returns.

    Args:
        status: 0 at the end of the work: all wait for one another. A text is an error, printed unless another process
            has had one before. Another number is the exit status of all, which they have agreed on.
    """
    if count() == 1:
        return
    if isinstance(status, int):
        _client().wait_at_barrier(f"jaxage/end/{status}", _FOREVER_MS)
        if status:
            leave_at_once(status)
        _ended.set()
        for thread in threading.enumerate():
            if thread.name == _WATCHER:
                thread.join()  # Python's end must not find it inside of JAX
        return
    if _is_first_failure(status):
        print(status, file=sys.stderr, flush=True)
    time.sleep(_LINGER_S)  # the first process keeps the store: the others are to read it
    leave_at_once(1)


def _is_first_failure(what: str) -> bool:
    try:
        _client().key_value_set(_FAILED, what)
    except jax.errors.JaxRuntimeError as error:
        return "ALREADY_EXISTS" not in str(error)
    return True


def _end_with_others() -> None:
    """End when another process has failed. This one may hang in a collective that waits for it."""
    while not _ended.wait(_POLL_S):
        try:
            _client().key_value_try_get(_FAILED)
        except jax.errors.JaxRuntimeError:
            continue
        time.sleep(2 * _LINGER_S)  # its own end may be under way
        leave_at_once(1)


def leave_at_once(status: int) -> NoReturn:
    """End without Python's own end, which would wait for processes that are no more."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _next_key() -> str:
    """A key of the store that is the same in all processes, as they all agree in the same order."""
    return f"jaxage/{next(_numbers)}"


def _client() -> Any:
    return distributed.global_state.client
