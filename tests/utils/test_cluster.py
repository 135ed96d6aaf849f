import json
import threading
from pathlib import Path

import pytest

from jaxage.types import UserError
from jaxage.utils import cluster


def test_one_process_agrees_with_itself(tmp_path: Path) -> None:
    assert cluster.agree({"a": 1}) == {"a": 1}
    assert cluster.gather(3) == [3]
    assert cluster.first(lambda: "x") == "x"
    cluster.require_same({"data": "x"})
    cluster.require_shared(tmp_path)
    cluster.leave(0)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "count", lambda: 2)
    monkeypatch.setattr(cluster, "index", lambda: 1)
    monkeypatch.setattr(cluster, "_VISIBLE_S", 0.0)
    monkeypatch.setattr(cluster, "agree", lambda value: "0123" if value is None else value)
    monkeypatch.setattr(cluster, "gather", lambda value: [True, value])
    with pytest.raises(UserError, match=r"process 1 does not see .*/nowhere of process 0: choose a folder that all"):
        cluster.require_shared(tmp_path / "nowhere")


class Store:
    """The key-value store of `jax.distributed`, for threads that play the processes."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self.changed:
            assert key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout_ms: int) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, 10)
            return self.values[key]


@pytest.mark.parametrize("other", ["same", "other"])
def test_inputs_must_be_the_same(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    monkeypatch.setattr(cluster, "count", lambda: 2)
    monkeypatch.setattr(cluster, "_client", lambda: store)
    monkeypatch.setattr(cluster, "_next_key", lambda: "1")
    monkeypatch.setattr(cluster, "index", lambda: 0)
    store.key_value_set("1/1", json.dumps({"data": other, "weights": None}))
    if other == "same":
        cluster.require_same({"data": "same", "weights": None})
    else:
        with pytest.raises(UserError, match=r"processes 0 and 1 do not have the same data \(data: same and other\)"):
            cluster.require_same({"data": "same", "weights": None})
