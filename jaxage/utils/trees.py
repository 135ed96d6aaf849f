"""Nested dicts of arrays by dotted leaf name."""

from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxage.types import Params


def flatten(tree: Params) -> dict[str, Any]:
    """`{"layer1": {"0": {"bn1": {"scale": x}}}}` as `{"layer1.0.bn1.scale": x}`, in sorted order."""
    return dict(sorted(flatten_dict(tree, sep=".").items()))


def unflatten(leaves: dict[str, Any]) -> Params:
    """The inverse of `flatten`."""
    nested: Params = unflatten_dict(leaves, sep=".")
    return nested


def map_named(function: Any, tree: Params) -> Params:
    """The tree of `function(dotted_name, leaf)`."""
    return unflatten({name: function(name, leaf) for name, leaf in flatten(tree).items()})


def count(tree: Params) -> int:
    """How many numbers the tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def is_within(name: str, module: str) -> bool:
    """Whether the dotted `name` is `module` or lies inside it."""
    return name == module or name.startswith(module + ".")


def module_names(tree: Params) -> list[str]:
    """Every module that holds a leaf, outer before inner: `layer1`, `layer1.0`, `layer1.0.bn1`, ..."""
    names: dict[str, None] = {}
    for leaf in flatten(tree):
        parts = leaf.split(".")
        for depth in range(1, len(parts)):
            names[".".join(parts[:depth])] = None
    return sorted(names, key=_natural)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]
