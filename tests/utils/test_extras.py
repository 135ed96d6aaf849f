import math

import pytest

from jaxage.types import UserError
from jaxage.utils.extras import require


def test_a_library_that_is_there_is_given() -> None:
    assert require("math", "photos", "predict") is math


def test_a_missing_library_names_its_extra() -> None:
    with pytest.raises(UserError, match=r"predict needs no_such_library: pip install 'jaxage\[photos\]'"):
        require("no_such_library.part", "photos", "predict")
