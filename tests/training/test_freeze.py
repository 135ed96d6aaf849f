from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.models.registry import create_model
from jaxage.training.freeze import (
    FROZEN,
    FreezePlan,
    Group,
    describe,
    label_tree,
    make_freeze_plan,
    parse_trainable,
    stop_frozen,
    train_bn_modules,
    trainable_mask,
)
from jaxage.types import Arch, UserError, Variables
from jaxage.utils.trees import flatten

SHAPES: dict[Arch, Variables] = {
    arch: jax.eval_shape(create_model(arch).init, jax.random.key(0)) for arch in ("resnet18", "mobilenet_v2")
}
RESNET, MOBILENET = SHAPES["resnet18"]["params"], SHAPES["mobilenet_v2"]["params"]

NORM = ("scale", "bias")
BLOCK = {"conv1": ("kernel",), "bn1": NORM, "conv2": ("kernel",), "bn2": NORM}
DOWNSAMPLE = {"downsample.0": ("kernel",), "downsample.1": NORM}
UNIT = {"conv.0.0": ("kernel",), "conv.0.1": NORM, "conv.1.0": ("kernel",), "conv.1.1": NORM}
FIRST_UNIT = {"conv.0.0": ("kernel",), "conv.0.1": NORM, "conv.1": ("kernel",), "conv.2": NORM}
PROJECTION = {"conv.2": ("kernel",), "conv.3": NORM}


def leaves(prefix: str, modules: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"{prefix}.{module}.{leaf}" for module, names in modules.items() for leaf in names]


STAGES = {
    "fc": ["fc.kernel", "fc.bias"],
    "layer4": leaves("layer4.0", BLOCK | DOWNSAMPLE) + leaves("layer4.1", BLOCK),
    "layer3": leaves("layer3.0", BLOCK | DOWNSAMPLE) + leaves("layer3.1", BLOCK),
    "layer2": leaves("layer2.0", BLOCK | DOWNSAMPLE) + leaves("layer2.1", BLOCK),
    "layer1": leaves("layer1.0", BLOCK) + leaves("layer1.1", BLOCK),
    "stem": ["conv1.kernel", "bn1.scale", "bn1.bias"],
}
FEATURES = [
    *("features.0.0.kernel", "features.0.1.scale", "features.0.1.bias"),
    *leaves("features.1", FIRST_UNIT),
    *(name for i in range(2, 18) for name in leaves(f"features.{i}", UNIT | PROJECTION)),
    *("features.18.0.kernel", "features.18.1.scale", "features.18.1.bias"),
]
CLASSIFIER = ["classifier.1.kernel", "classifier.1.bias"]


def labels(params: Any, text: str) -> dict[str, str]:
    return flatten(label_tree(params, parse_trainable(text, params)))


@pytest.mark.parametrize(
    ("trainable", "frozen"),
    [
        ("fc", ("layer4", "layer3", "layer2", "layer1", "stem")),
        ("fc,layer4", ("layer3", "layer2", "layer1", "stem")),
        ("fc,layer4,layer3", ("layer2", "layer1", "stem")),
        ("fc,layer4,layer3,layer2", ("layer1", "stem")),
        ("fc,layer4,layer3,layer2,layer1", ("stem",)),
    ],
)
def test_the_label_trees_of_the_five_resnets(trainable: str, frozen: tuple[str, ...]) -> None:
    wanted = {leaf: name for name in trainable.split(",") for leaf in STAGES[name]}
    wanted |= {leaf: FROZEN for name in frozen for leaf in STAGES[name]}
    assert labels(RESNET, trainable) == wanted


def test_the_label_trees_of_the_two_mobilenets() -> None:
    heads = dict.fromkeys(CLASSIFIER, "classifier")
    assert labels(MOBILENET, "classifier") == heads | dict.fromkeys(FEATURES, FROZEN)
    assert labels(MOBILENET, "all") == dict.fromkeys(CLASSIFIER + FEATURES, "all")


def test_the_innermost_group_decides() -> None:
    found = labels(RESNET, "all, layer4:0.1, layer4.1 : 0.01, fc:2")
    assert found["layer4.1.conv1.kernel"] == "layer4.1"
    assert found["layer4.0.conv1.kernel"] == "layer4"
    assert found["conv1.kernel"] == "all"
    assert found["fc.bias"] == "fc"


def test_a_name_is_no_prefix_of_another() -> None:
    found = labels(MOBILENET, "features.1,features.18")
    assert found["features.1.conv.0.0.kernel"] == "features.1"
    assert found["features.18.0.kernel"] == "features.18"
    assert found["features.10.conv.0.0.kernel"] == FROZEN


def test_multipliers() -> None:
    assert parse_trainable("fc, layer4:0.1 ,layer3:1e-2", RESNET) == (
        Group("fc", 1.0),
        Group("layer4", 0.1),
        Group("layer3", 0.01),
    )


@pytest.mark.parametrize("params", [RESNET, MOBILENET], ids=["resnet18", "mobilenet_v2"])
@given(data=st.data())
def test_every_leaf_gets_one_label_and_only_named_ones_learn(params: Any, data: st.DataObject) -> None:
    modules = sorted(
        {leaf.rsplit(".", depth)[0] for leaf in flatten(params) for depth in (1, 2)} - set(flatten(params))
    )
    names = data.draw(st.lists(st.sampled_from(modules), min_size=1, max_size=4, unique=True))
    found = labels(params, ",".join(names))
    assert found.keys() == flatten(params).keys()
    for leaf, label in found.items():
        inside = [name for name in names if leaf.startswith(name + ".")]
        assert label == (max(inside, key=len) if inside else FROZEN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty", "fc", "layer4", "all"]),
        ("  ", ["empty"]),
        ("fc,", ["''"]),
        ("fc,,layer4", ["''"]),
        ("fc,layr4", ["'layr4'", "did you mean 'layer4'", "valid names: all, "]),
        ("classifier", ["'classifier'", "valid names: all, ", "fc"]),
        ("layer4.7", ["'layer4.7'"]),
        ("Layer4", ["'Layer4'", "layer4"]),
        ("fc.kernel", ["'fc.kernel'"]),
        ("frozen", ["'frozen'"]),
        ("fc,fc", ["'fc'", "twice"]),
        ("fc,layer4,fc:0.1", ["'fc'", "twice"]),
        ("all,all", ["'all'", "twice"]),
        *(
            (f"fc:{bad}", ["multiplier", "positive number", "leave it out"])
            for bad in ("0", "-1", "nan", "inf", "x", "")
        ),
        ("fc:0.1:2", ["multiplier"]),
    ],
)
def test_mistakes_get_the_valid_names(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse_trainable(text, RESNET)
    for word in words:
        assert word in str(error.value)


def test_mobilenets_names_are_shown_one_by_one() -> None:
    with pytest.raises(UserError, match=r"features\.0, features\.1, .*features\.18"):
        parse_trainable("fc", MOBILENET)


def test_which_batch_norms_are_in_training_mode() -> None:
    stats = SHAPES["resnet18"]["batch_stats"]
    groups = parse_trainable("fc,layer4.1", RESNET)
    assert train_bn_modules(stats, label_tree(RESNET, groups), "eval") == {"layer4.1.bn1", "layer4.1.bn2"}
    assert train_bn_modules(stats, label_tree(RESNET, parse_trainable("fc", RESNET)), "eval") == frozenset()
    everything = train_bn_modules(stats, label_tree(RESNET, groups), "train")
    assert len(everything) == 20
    assert everything == train_bn_modules(stats, label_tree(RESNET, parse_trainable("all", RESNET)), "eval")
    assert {"bn1", "layer3.0.downsample.1"} <= everything


def plan(arch: Arch, trainable: str, frozen_bn: Any = "eval") -> FreezePlan:
    groups = parse_trainable(trainable, SHAPES[arch]["params"])
    return make_freeze_plan(create_model(arch), SHAPES[arch], groups, frozen_bn)


@pytest.mark.parametrize(
    ("arch", "trainable", "first_block", "head_only"),
    [
        ("resnet18", "fc", "fc", True),
        ("resnet18", "fc:0.5", "fc", True),
        ("resnet18", "fc:0.5,layer4", "layer4.0", False),
        ("resnet18", "layer4.1,fc", "layer4.1", False),
        ("resnet18", "all", "conv1", False),
        ("resnet18", "fc,bn1", "conv1", False),
        ("mobilenet_v2", "classifier", "classifier", True),
        ("mobilenet_v2", "classifier.1", "classifier", True),
        ("mobilenet_v2", "classifier:2,features.18", "features.18", False),
    ],
)
def test_the_plan_asks_the_groups_and_not_the_text(
    arch: Arch, trainable: str, first_block: str, head_only: bool
) -> None:
    found = plan(arch, trainable)
    assert (found.first_block, found.head_only) == (first_block, head_only)
    drifting = plan(arch, trainable, "train")
    assert drifting.head_only == head_only
    assert drifting.first_block == create_model(arch).spec.units[0]


def test_no_gradient_reaches_what_is_frozen() -> None:
    params = {"a": {"kernel": jnp.ones(3)}, "b": {"kernel": jnp.ones(3)}}
    tree = label_tree(params, (Group("b"),))
    assert trainable_mask(tree) == {"a": {"kernel": False}, "b": {"kernel": True}}

    def loss(given: Any) -> Any:
        held = stop_frozen(given, tree)
        return (held["a"]["kernel"] * held["b"]["kernel"] ** 2).sum()

    gradient = jax.grad(loss)(params)
    np.testing.assert_array_equal(gradient["a"]["kernel"], 0)
    np.testing.assert_array_equal(gradient["b"]["kernel"], 2)


def test_the_description_adds_up() -> None:
    text = describe(SHAPES["resnet18"], plan("resnet18", "fc,layer4:0.1"))
    assert text.splitlines() == [
        "  fc              513 parameters (  0.0%)  learning rate x 1",
        "  layer4    8,393,728 parameters ( 75.1%)  learning rate x 0.1",
        "  frozen    2,782,784 parameters ( 24.9%)  no gradient",
        "  BatchNorm: 5 of 20 modules use and update batch statistics, the others use their running statistics",
    ]
