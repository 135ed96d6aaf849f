"""Find a network's state dict among the tensors that a checkpoint holds."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from jaxage.data.records import listed
from jaxage.models.registry import MODELS, create_model
from jaxage.pretrained.keymap import tables
from jaxage.pretrained.names import COUNTER, module_of, torch_key, torch_shape
from jaxage.types import Arch, UserError
from jaxage.utils.text import quoted
from jaxage.utils.trees import flatten, is_within

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a dict, by its key."""

DictPath = tuple[str, ...]

_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_SHOWN = 3


class ConversionError(UserError):
    """A checkpoint that does not hold the network; the message names the checkpoint's keys, and every fault."""


class FoundState(NamedTuple):
    """Where a network's state dict is.

    path: of the dict in the checkpoint. keys: of the dict, by the key that the network's layout has for it. notes: what
    the user is to know: which entry it was, which prefix was dropped, and what was left out.
    """

    path: DictPath
    keys: dict[str, str]
    notes: tuple[str, ...]


class _Layout(NamedTuple):
    """The shapes that a network's trunk and head have under the names of one layout."""

    trunk: Shapes
    head: Shapes


class _Fit(NamedTuple):
    """How one dict would be the network: its path, the prefix of its keys, a layout, and how much of it is right."""

    path: DictPath
    prefix: str
    layout: _Layout
    right: int
    exact: bool


def find_state(dicts: Mapping[DictPath, Shapes], arch: Arch) -> FoundState:
    """Find the one dict whose tensors are the network's trunk, under a known layout and a prefix of any form.

    The head may be of any form: it is given only if it is the network's own kind, and named in the notes otherwise.
    Tensors outside of the network are named in the notes too. Tensors inside of its modules that it does not have are
    a fault: then it is another network.

    Args:
        dicts: The shapes of every dict of tensors in the checkpoint, by its path.
        arch: The network.

    Raises:
        ConversionError: if there is no such dict, or several prefixes in one.
        UserError: if there is no network of that name.
    """
    fits = [fit for fit in _fits(dicts, arch) if fit.exact]
    if not fits:
        raise ConversionError(_why_not(dicts, arch))
    fits.sort(key=lambda fit: _rank(fit.path))
    best = fits[0]
    prefixes = sorted({fit.prefix for fit in fits if fit.path == best.path})
    if len(prefixes) > 1:
        raise ConversionError(
            f"it holds {len(prefixes)} networks of this kind, under "
            f"{' and '.join(map(quoted, prefixes))}: save the one to use alone"
        )
    return _found(dicts[best.path], best, others=sorted({fit.path for fit in fits} - {best.path}))


def _layouts(arch: Arch) -> list[_Layout]:
    model = create_model(arch)
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0)))
    names = sorted({module_of(leaf) for leaf in shapes})
    layouts = []
    for table in tables(arch, names).values():
        parts: tuple[dict[str, tuple[int, ...]], ...] = ({}, {})
        for leaf, value in shapes.items():
            parts[is_within(module_of(leaf), model.spec.head)][torch_key(leaf, table)] = torch_shape(value.shape)
        layouts.append(_Layout(*parts))
    return layouts


def _fits(dicts: Mapping[DictPath, Shapes], arch: Arch) -> Iterator[_Fit]:
    for layout in _layouts(arch):
        kernels = [key for key, shape in layout.trunk.items() if len(shape) == 4]
        for path, shapes in dicts.items():
            for prefix in _prefixes(shapes, kernels):
                right = sum(shapes.get(prefix + key) == shape for key, shape in layout.trunk.items())
                exact = right == len(layout.trunk) and not _strangers(shapes, prefix, layout.trunk)
                yield _Fit(path, prefix, layout, right, exact)


def _prefixes(shapes: Shapes, kernels: list[str]) -> list[str]:
    """What may stand before the network's own keys: whatever stands before one of its kernels."""
    found = {key.removesuffix(kernel) for kernel in kernels for key in shapes if key.endswith(kernel)}
    return sorted(prefix for prefix in found if not prefix or prefix.endswith("."))


def _strangers(shapes: Shapes, prefix: str, trunk: Shapes) -> list[str]:
    """Keys inside of the trunk's modules that the network does not have."""
    modules = {key.partition(".")[0] for key in trunk}
    inside = [key for key in shapes if key.startswith(prefix) and key[len(prefix) :].partition(".")[0] in modules]
    return [key for key in inside if key[len(prefix) :] not in trunk and not key.endswith(COUNTER)]


def _rank(path: DictPath) -> tuple[int, int, DictPath]:
    """Usual names first, then what is less deep, then the alphabet."""
    usual = _USUAL.index(path[-1]) if path and path[-1] in _USUAL else len(_USUAL)
    return (usual if path else -1, len(path), path)


def _found(shapes: Shapes, fit: _Fit, others: list[DictPath]) -> FoundState:
    head = {key: shapes.get(fit.prefix + key, ()) for key in fit.layout.head}
    is_own = all(len(head[key]) == len(shape) and head[key][1:] == shape[1:] for key, shape in fit.layout.head.items())
    keys = {key: fit.prefix + key for key in [*fit.layout.trunk, *(head if is_own else ())]}
    left = sorted(key for key in shapes.keys() - set(keys.values()) if not key.endswith(COUNTER))
    notes = []
    if fit.path:
        others_named = f", not from {' or '.join(quoted('.'.join(path)) for path in others)}" if others else ""
        notes.append(f"taken from its entry {quoted('.'.join(fit.path))}{others_named}")
    if fit.prefix:
        notes.append(f"the prefix {quoted(fit.prefix)} of its names is left away")
    if left:
        notes.append(f"not of the network's trunk, left out: {_listed(left)}")
    return FoundState(fit.path, keys, tuple(notes))


def _why_not(dicts: Mapping[DictPath, Shapes], arch: Arch) -> str:
    keys = [key for shapes in dicts.values() for key in shapes]
    text = f"no {arch}: its keys are {_listed(keys)}"
    for other in MODELS:
        if other != arch and any(fit.exact for fit in _fits(dicts, other)):
            return f"{text}; they are those of {other}: choose that network"
    best = max(_fits(dicts, arch), key=lambda fit: fit.right, default=None)
    if best is None:
        return f"{text}; none ends like those of {arch}: save the state_dict() of torchvision's or timm's model"
    return text + "\n" + _faults(dicts[best.path], best)


def _faults(shapes: Shapes, fit: _Fit) -> str:
    """What the dict lacks and has too much, as lines."""
    trunk = {fit.prefix + key: shape for key, shape in fit.layout.trunk.items()}
    faults = [f"missing: {key}" for key in trunk if key not in shapes]
    wrong = {key: shape for key, shape in trunk.items() if shapes.get(key, shape) != shape}
    faults += [f"shape: {key} is {shapes[key]}, expected {shape}" for key, shape in wrong.items()]
    faults += [f"unused: {key} {shapes[key]}" for key in _strangers(shapes, fit.prefix, fit.layout.trunk)]
    return listed(faults)


def _listed(keys: list[str]) -> str:
    shown = ", ".join(quoted(key) for key in keys[:_SHOWN])
    return shown + (f" and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else "")
