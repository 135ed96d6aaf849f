import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.utils.trees import count, flatten, is_within, map_named, module_names, unflatten

NAMES = st.text("abc01_", min_size=1, max_size=3)
TREES = st.recursive(
    st.integers().map(lambda n: np.asarray(n % 7)), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3)
).filter(lambda tree: isinstance(tree, dict))


@given(TREES)
def test_unflatten_is_the_inverse_of_flatten(tree: dict[str, object]) -> None:
    leaves = flatten(tree)
    assert list(leaves) == sorted(leaves)
    assert unflatten(leaves) == tree
    assert flatten(unflatten(leaves)) == leaves


@given(TREES)
def test_mapping_keeps_the_names(tree: dict[str, object]) -> None:
    assert flatten(map_named(lambda name, leaf: (name, leaf), tree)) == {n: (n, v) for n, v in flatten(tree).items()}


@pytest.mark.parametrize(
    ("name", "module", "inside"),
    [
        ("layer1", "layer1", True),
        ("layer1.0.conv1", "layer1", True),
        ("layer1.0.conv1", "layer1.0", True),
        ("layer10", "layer1", False),
        ("features.18.0", "features.1", False),
        ("layer1", "layer1.0", False),
    ],
)
def test_within(name: str, module: str, inside: bool) -> None:
    assert is_within(name, module) is inside


def test_modules_in_reading_order() -> None:
    tree = {"features": {str(i): {"conv": {"weight": 0}} for i in (10, 2)}, "classifier": {"1": {"bias": 0}}}
    assert module_names(tree) == [
        *("classifier", "classifier.1", "features"),
        *("features.2", "features.2.conv", "features.10", "features.10.conv"),
    ]


def test_counting_numbers_not_leaves() -> None:
    assert count({"a": np.zeros((2, 3)), "b": {"c": np.zeros(())}}) == 7
