import os
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from jaxage.report.style import STYLE, log_tick_labels, save_picture


def test_an_interrupted_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def fill_the_disk(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_picture(path, Figure())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_labels_of_a_logarithmic_axis_are_plain_text(tmp_path: Path) -> None:
    assert [log_tick_labels()(value, 0) for value in (1e-6, 0.01, 1)] == ["1e-06", "1e-02", "1e+00"]
    with matplotlib.rc_context(STYLE):
        axes = Figure().subplots()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(log_tick_labels())
        assert not any("$" in label.get_text() for label in axes.get_xticklabels())
