import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.training.freeze import FROZEN, Group
from jaxage.training.unfreeze import Phase, labels_in, make_phases, parse_unfreeze
from jaxage.types import UserError

GROUPS = (Group("fc"), Group("layer4", 0.5), Group("layer3"))


def test_groups_begin_where_they_are_told_to() -> None:
    firsts = parse_unfreeze("fc@0, layer4@0.1,layer3@0.35", GROUPS, 100)
    assert firsts == {"fc": 0, "layer4": 10, "layer3": 35}
    assert make_phases(firsts, 100) == (
        Phase(0, 10, frozenset({"fc"})),
        Phase(10, 35, frozenset({"fc", "layer4"})),
        Phase(35, 100, frozenset({"fc", "layer4", "layer3"})),
    )


def test_what_is_not_named_learns_from_the_first_step() -> None:
    assert parse_unfreeze("", GROUPS, 9) == {"fc": 0, "layer4": 0, "layer3": 0}
    assert make_phases(parse_unfreeze("layer3@0.5", GROUPS, 9), 9)[1] == Phase(
        4, 9, frozenset({"fc", "layer4", "layer3"})
    )


@given(st.lists(st.integers(0, 19), min_size=1, max_size=6), st.integers(20, 30))
def test_phases_cover_every_step_once(starts: list[int], total: int) -> None:
    firsts = {str(name): start - min(starts) for name, start in enumerate(starts)}
    phases = make_phases(firsts, total)
    assert [step for phase in phases for step in range(phase.first, phase.end)] == list(range(total))
    for phase in phases:
        for step in range(phase.first, phase.end):
            assert phase.learning == {name for name, first in firsts.items() if first <= step}


def test_labels_of_what_waits_are_frozen() -> None:
    labels = {"fc": {"kernel": "fc"}, "layer4": {"kernel": "layer4"}, "conv1": {"kernel": FROZEN}}
    now = labels_in(Phase(0, 5, frozenset({"fc"})), labels)
    assert now == {"fc": {"kernel": "fc"}, "layer4": {"kernel": FROZEN}, "conv1": {"kernel": FROZEN}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer2@0.1", r"names 'layer2', which --trainable does not: it has fc, layer4, layer3"),
        ("layer4@0.1,layer4@0.2", r"names 'layer4' twice"),
        ("layer4", r"write GROUP@SHARE"),
        ("layer4@1", r"in \[0, 1\)"),
        ("layer4@nan", r"in \[0, 1\)"),
        ("layer4@soon", r"write GROUP@SHARE"),
        ("fc@0.1,layer4@0.1,layer3@0.2", r"lets nothing learn from the first step"),
        ("fc@0.001,layer4@0.001,layer3@0.001", r"lets nothing learn from the first step"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_unfreeze(text, GROUPS, 100)
