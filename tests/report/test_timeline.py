from pathlib import Path

import numpy as np
import pytest

from jaxage.report.timeline import timeline
from tests.report.pictures import ink, read


def test_timeline(tmp_path: Path) -> None:
    spans = [(0.0, 2.0, "compute"), (2.0, 1.0, "wait"), (5.0, 1.0, "host")]
    timeline(tmp_path / "timeline.png", {"1: device": spans, "2: python": spans[2:]}, "an epoch")
    image = read(tmp_path / "timeline.png")
    assert image.size[0] == 1800
    assert 0.02 < ink(image) < 0.6
    for color in ((0, 114, 178), (213, 94, 0), (107, 107, 107)):
        assert (np.asarray(image) == color).all(axis=2).sum() > 500
    with pytest.raises(ValueError, match="nothing was recorded"):
        timeline(tmp_path / "none.png", {}, "an epoch")
