from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxage.metrics import METRICS
from jaxage.report.event_file import EVENT_FILE, scalars_of, write_events
from tests.events import crc32c, read_events

pytest.importorskip("tensorboardX")


def row(epoch: int, **more: Any) -> dict[str, Any]:
    scores = {name: epoch / 10 + place for place, name in enumerate(METRICS)}
    return {
        "epoch": epoch,
        "step": 7 * epoch,
        "train_loss": 1 / epoch,
        "learning_rate": 1e-3 / epoch,
        "validation": scores,
    } | more


ROWS = [row(epoch) for epoch in range(1, 5)]


def expected(rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    return [(row["step"], {tag: float(np.float32(x)) for tag, x in scalars_of(row).items()}) for row in rows]


def test_the_tags_are_those_of_the_metrics() -> None:
    assert scalars_of(ROWS[0]) == {
        "train/loss": 1.0,
        "train/learning_rate": 1e-3,
        "validation/PLCC": 0.1,
        "validation/SROCC": 1.1,
        "validation/MAE": 2.1,
        "validation/RMSE": 3.1,
        "validation/CS@5": 4.1,
    }
    undefined = ROWS[0] | {"validation": ROWS[0]["validation"] | {"plcc": None}}
    assert "validation/PLCC" not in scalars_of(undefined)


def test_a_file_that_grows_says_what_the_history_says(tmp_path: Path) -> None:
    before = b""
    for epochs in range(5):
        write_events(tmp_path / "events", ROWS[:epochs])
        assert read_events(tmp_path / "events") == expected(ROWS[:epochs])
        now = (tmp_path / "events" / EVENT_FILE).read_bytes()
        assert now.startswith(before)
        before = now
    write_events(tmp_path / "events", ROWS)
    assert (tmp_path / "events" / EVENT_FILE).read_bytes() == before


def test_wherever_it_was_cut_or_broken_it_is_made_whole(tmp_path: Path) -> None:
    write_events(tmp_path, ROWS)
    whole = (tmp_path / EVENT_FILE).read_bytes()
    for end in range(0, len(whole), 29):
        for data in (whole[:end], whole[:end] + b"\0" * 40, whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :]):
            (tmp_path / EVENT_FILE).write_bytes(data)
            write_events(tmp_path, ROWS)
            assert read_events(tmp_path) == expected(ROWS)


def test_what_the_history_does_not_hold_goes(tmp_path: Path) -> None:
    write_events(tmp_path, ROWS)
    write_events(tmp_path, ROWS[:2])
    assert read_events(tmp_path) == expected(ROWS[:2])
    other = [ROWS[0], row(2, train_loss=9.0), *ROWS[2:]]
    write_events(tmp_path, other)
    assert read_events(tmp_path) == expected(other)


def test_strengths_of_a_closed_form_are_numbered(tmp_path: Path) -> None:
    write_events(tmp_path, [{"epoch": 3, "strength": 0.5, "validation": {"mae": 4.0}}])
    assert read_events(tmp_path) == [(3, {"validation/MAE": 4.0})]


def test_the_checksum_of_the_reader_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_tensorboard_reads_the_same(tmp_path: Path) -> None:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_events(tmp_path, ROWS)
    found = accumulator.EventAccumulator(str(tmp_path)).Reload()
    for tag in scalars_of(ROWS[0]):
        assert [(event.step, event.value) for event in found.Scalars(tag)] == [
            (step, scalars[tag]) for step, scalars in expected(ROWS)
        ]
