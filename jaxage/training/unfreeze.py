"""Gradual unfreezing: which groups learn from which step on.

`--unfreeze layer4@0.1,layer3@0.3` keeps layer4 frozen for the first tenth of all steps and layer3 for three tenths.
What learns is a pure function of the step, so a resumed run continues in the right phase.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import jax

from jaxage.training.freeze import FROZEN, FreezePlan, Group, train_bn_modules
from jaxage.types import FrozenBatchNorm, Params, UserError


class Phase(NamedTuple):
    """From step `first` up to, not including, step `end`, the groups of these names learn."""

    first: int
    end: int
    learning: frozenset[str]


def parse_unfreeze(text: str, groups: tuple[Group, ...], total_steps: int) -> dict[str, int]:
    """The first step at which each group learns.

    Args:
        text: A comma list such as "layer4@0.1,layer3@0.3": group @ share of all steps. "" unfreezes all at once.
        groups: What learns (see `parse_trainable`).
        total_steps: How many steps the run has.

    Raises:
        UserError: for a name that is no group, a name given twice, a share that is no number in [0, 1), and if no
            group learns from the first step.
    """
    shares = {group.name: 0.0 for group in groups}
    named: set[str] = set()
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        name, _, share = (part.strip() for part in entry.partition("@"))
        if name not in shares:
            raise UserError(f"--unfreeze names {name!r}, which --trainable does not: it has {', '.join(shares)}")
        if name in named:
            raise UserError(f"--unfreeze {text!r} names {name!r} twice: name each group once")
        named.add(name)
        shares[name] = _share(entry, share)
    if min(shares.values()) > 0:
        raise UserError(
            f"--unfreeze {text!r} lets nothing learn from the first step: leave one group out, or give it @0"
        )
    return {name: math.floor(share * total_steps) for name, share in shares.items()}


def make_phases(firsts: Mapping[str, int], total_steps: int) -> tuple[Phase, ...]:
    """The phases in their order, which cover all steps; `firsts` is what `parse_unfreeze` returns."""
    edges = [*sorted(set(firsts.values())), total_steps]
    return tuple(
        Phase(first, end, frozenset(name for name, start in firsts.items() if start <= first))
        for first, end in pairwise(edges)
    )


def labels_in(phase: Phase, labels: Params) -> Params:
    """The label tree of a phase: leaves of groups that are not yet unfrozen are labelled "frozen"."""
    return jax.tree.map(lambda label: label if label in phase.learning else FROZEN, labels)


def plan_in(phase: Phase, plan: FreezePlan, batch_stats: Params, frozen_bn: FrozenBatchNorm) -> FreezePlan:
    """The plan of a phase: groups that are not yet unfrozen are frozen. The first block is that of the whole run."""
    labels = labels_in(phase, plan.labels)
    return plan._replace(labels=labels, train_bn=train_bn_modules(batch_stats, labels, frozen_bn))


def _share(entry: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise UserError(f"--unfreeze {entry!r}: write GROUP@SHARE, a share of all steps in [0, 1), such as layer4@0.1")
    return share
