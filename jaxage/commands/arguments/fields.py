"""How tyro reads the dataclasses of settings: each field is an option, and its docstring is the help."""

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING as DATACLASS_MISSING
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import tyro
from tyro import MISSING
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from jaxage.config import TrainConfig

GROUPS = {
    "main": "data trainable arch epochs out",
    "model": "weights frozen_bn dtype",
    "dataset": "split split_seed max_bad",
    "images": "image_size views augment flip",
    "optimization": "loss solver batch_size learning_rate weight_decay warmup clip ema unfreeze balance",
    "speed": "cache_features memory_budget",
    "run": "seed resume tensorboard",
}
"""The options of `jaxage train` in the groups and in the order of its help."""

_File = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
_Source = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]


class Asked(NamedTuple):
    """Settings of a run, and which of them were typed."""

    config: TrainConfig
    given: frozenset[str]


_GROUP_TYPES: dict[Any, list[str]] = {type(name, (), {}): names.split() for name, names in GROUPS.items()}


def field_rules(arguments: Sequence[str]) -> ConstructorRegistry:
    """The rules for one command line: choices from tables, help without line breaks of docstrings, and `Asked`."""
    registry = ConstructorRegistry()
    typed = {text.partition("=")[0].removeprefix("--").replace("-", "_") for text in arguments if text.startswith("--")}

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is Asked:
            names = {field.name for field in fields(TrainConfig)}
            given = frozenset(name for name in names if {name, f"no_{name}"} & typed)

            def make(**groups: Mapping[str, Any]) -> Asked:
                return Asked(TrainConfig(**{name: group[name] for group in groups.values() for name in group}), given)

            return StructConstructorSpec(make, tuple(map(_group, _GROUP_TYPES)))
        if info.type in _GROUP_TYPES:
            known = {option.name: option for option in _options(TrainConfig)}
            return StructConstructorSpec(dict, tuple(known[name] for name in _GROUP_TYPES[info.type]))
        if is_dataclass(info.type) and info.type.__module__.startswith("jaxage."):
            return StructConstructorSpec(info.type, _options(info.type))
        return None

    return registry


def _group(kind: Any) -> StructFieldSpec:
    return StructFieldSpec(kind.__name__, tyro.conf.OmitArgPrefixes[kind], MISSING, "")  # type: ignore[misc]


def _options(config: type) -> tuple[StructFieldSpec, ...]:
    """An option for each field of a dataclass, with its docstring as help."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0].body  # type: ignore[attr-defined]
    helps = {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    types = get_type_hints(config, include_extras=True)
    from jaxage.losses import LOSSES
    from jaxage.models.registry import MODELS

    types |= {"arch": Literal[*MODELS], "loss": Literal[*LOSSES], "file": _File, "source": _Source}
    return tuple(
        StructFieldSpec(
            field.name,
            types[field.name],
            MISSING if field.default is DATACLASS_MISSING else field.default,
            helps[field.name],
        )
        for field in fields(config)
    )
