"""Which layers learn: from "fc,layer4:0.1" to a label for every parameter.

Everything about freezing is here: groups, the label tree for `optax.multi_transform`, the BatchNorm modules in training
mode, and the cut that keeps XLA from computing gradients of frozen parameters.
"""

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax

from jaxage.models.registry import Model
from jaxage.types import FrozenBatchNorm, Params, UserError, Variables
from jaxage.utils.trees import count, flatten, is_within, map_named, module_names

FROZEN = "frozen"


class Group(NamedTuple):
    """Parameters that learn together: a torchvision module name or "all", and the multiplier of its learning rate."""

    name: str
    multiplier: float = 1.0

    def holds(self, leaf: str) -> bool:
        """Whether the dotted leaf name lies in this group."""
        return self.name == "all" or is_within(leaf, self.name)


class FreezePlan(NamedTuple):
    """What learns and what does not, computed once by `make_freeze_plan`.

    Attributes:
        groups: as in --trainable.
        labels: a tree like `params`; each leaf is the name of its group, or "frozen": for `optax.multi_transform`.
        train_bn: the BatchNorm modules in training mode.
        first_block: the first block of the network in which anything changes: below it, it is a constant function.
        head_only: whether nothing but the head learns.
    """

    groups: tuple[Group, ...]
    labels: Params
    train_bn: frozenset[str]
    first_block: str
    head_only: bool


def make_freeze_plan(
    model: Model, variables: Variables, groups: tuple[Group, ...], frozen_bn: FrozenBatchNorm
) -> FreezePlan:
    """The plan for these groups of a network.

    Args:
        model: The network; its blocks and head are asked for.
        variables: Its `params` and `batch_stats`, or their shapes.
        groups: What learns (see `parse_trainable`).
        frozen_bn: "eval" keeps frozen BatchNorm at its running statistics, "train" does as plain PyTorch does.
    """
    labels = label_tree(variables["params"], groups)
    train_bn = train_bn_modules(variables["batch_stats"], labels, frozen_bn)
    head = model.spec.head
    learning = [leaf for leaf, label in flatten(labels).items() if label != FROZEN]
    return FreezePlan(
        groups,
        labels,
        train_bn,
        first_trainable_block(model.spec.units, labels, train_bn),
        all(is_within(leaf, head) for leaf in learning),
    )


def parse_trainable(text: str, params: Params) -> tuple[Group, ...]:
    """Groups from a comma list of module names with optional learning-rate multipliers, such as "fc,layer4:0.1".

    Args:
        text: The list; "all" stands for the whole network.
        params: The network's parameters, or their shapes: they have the valid names.

    Returns:
        A group for each entry, in the order of the list.

    Raises:
        UserError: for an empty list, an unknown module (with the valid names and the closest one), a name given twice,
            and a multiplier that is not a positive number.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if entries == [""]:
        raise UserError(f"--trainable is empty: give module names to train, {_valid(params)}")
    groups = [_parse_group(entry, params) for entry in entries]
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--trainable {text!r} names {name!r} twice: name each module once")
    return tuple(groups)


def label_tree(params: Params, groups: tuple[Group, ...]) -> Params:
    """A tree like `params` with each leaf's label: the name of the innermost group that holds it, or "frozen"."""

    def label(leaf: str, _: object) -> str:
        holders = [group.name for group in groups if group.holds(leaf)]
        return max(holders, key=lambda name: 0 if name == "all" else len(name), default=FROZEN)

    return map_named(label, params)


def train_bn_modules(batch_stats: Params, labels: Params, frozen_bn: FrozenBatchNorm) -> frozenset[str]:
    """The BatchNorm modules in training mode: those that learn and, with `frozen_bn="train"` (plain PyTorch), all."""
    modules = {leaf.rsplit(".", 1)[0] for leaf in flatten(batch_stats)}
    learning = {leaf.rsplit(".", 1)[0] for leaf, label in flatten(labels).items() if label != FROZEN}
    return frozenset(modules if frozen_bn == "train" else modules & learning)


def first_trainable_block(units: Sequence[str], labels: Params, train_bn: frozenset[str]) -> str:
    """The first of a chain of blocks in which anything learns or moves: what comes before is a constant function."""
    names = [leaf for leaf, label in flatten(labels).items() if label != FROZEN]
    positions = {unit: position for position, unit in enumerate(units)}
    owners = ([unit for unit in units if is_within(name, unit)] for name in (*names, *train_bn))
    return units[min(positions[owner[0]] if owner else 0 for owner in owners)]


def stop_frozen(params: Params, labels: Params) -> Params:
    """The same values, with a stopped gradient for frozen leaves: XLA never computes it."""
    return jax.tree.map(lambda leaf, label: lax.stop_gradient(leaf) if label == FROZEN else leaf, params, labels)


def trainable_mask(labels: Params) -> Params:
    """A tree of booleans: whether each leaf learns."""
    return jax.tree.map(lambda label: label != FROZEN, labels)


def ema_mask(variables: Variables, plan: FreezePlan) -> Variables:
    """A tree of booleans like `variables`: whether a leaf learns, or is a running statistic that moves."""
    moves = map_named(lambda leaf, _: leaf.rsplit(".", 1)[0] in plan.train_bn, variables["batch_stats"])
    return {"params": trainable_mask(plan.labels), "batch_stats": moves}


def describe(variables: Variables, plan: FreezePlan) -> str:
    """A few lines for people: each group with its rate and size, what is frozen, and how BatchNorm behaves."""
    sizes: dict[str, int] = {}
    params = variables["params"]
    for leaf, label in zip(flatten(params).values(), flatten(plan.labels).values(), strict=True):
        sizes[label] = sizes.get(label, 0) + leaf.size
    total = count(params)
    rows = [(g.name, f"learning rate x {g.multiplier:g}", sizes.get(g.name, 0)) for g in plan.groups]
    rows.append((FROZEN, "no gradient", sizes.get(FROZEN, 0)))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name:<{width}}  {n:>11,} parameters ({n / total:6.1%})  {how}" for name, how, n in rows]
    norms = len({leaf.rsplit(".", 1)[0] for leaf in flatten(variables["batch_stats"])})
    lines.append(
        f"  BatchNorm: {len(plan.train_bn)} of {norms} modules use and update batch statistics, the others use their "
        "running statistics"
    )
    return "\n".join(lines)


def _parse_group(entry: str, params: Params) -> Group:
    name, colon, factor = (part.strip() for part in entry.partition(":"))
    valid = ["all", *module_names(params)]
    if name not in valid:
        close = difflib.get_close_matches(name, valid, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"--trainable names {name!r}, which is no module of this network{hint}; {_valid(params)}")
    try:
        multiplier = float(factor) if colon else 1.0
    except ValueError:
        multiplier = math.nan
    if not (math.isfinite(multiplier) and multiplier > 0):
        raise UserError(
            f"--trainable {entry!r}: the learning-rate multiplier must be a positive number, such as {name}:0.1; "
            f"to freeze {name}, leave it out"
        )
    return Group(name, multiplier)


def _valid(params: Params) -> str:
    outer = [name for name in module_names(params) if name.count(".") <= (name.startswith("features"))]
    return f"valid names: all, {', '.join(outer)}, and the modules inside them, such as {module_names(params)[-1]}"
