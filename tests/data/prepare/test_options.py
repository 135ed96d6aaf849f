from typing import Any

import pytest

from jaxage.data.prepare.options import PrepareOptions
from jaxage.types import UserError


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"split_ratios": "0.6,0.4"}, "split_ratios 0.6,0.4"),
        ({"split_ratios": "0.6,0.3,0.3"}, "sum to 1"),
        ({"split_ratios": "a,b,c"}, "three positive numbers"),
        ({"split_ratios": "1.2,-0.1,-0.1"}, "positive"),
        ({"min_side": 8}, "min_side"),
        ({"max_bad": 2.0}, "max_bad"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        PrepareOptions(**setting)


def test_ratios_are_read() -> None:
    assert PrepareOptions(split_ratios="0.5, 0.3,0.2").ratios() == (0.5, 0.3, 0.2)
