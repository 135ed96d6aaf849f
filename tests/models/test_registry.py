from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.models.registry import MODELS, create_model
from jaxage.training.freeze import parse_trainable
from jaxage.types import Arch, UserError
from jaxage.utils.trees import count, flatten
from tests.models.compare import assert_same
from tests.tiny import TINY

ARCHS = ("resnet18", "mobilenet_v2")
"""The other ResNets have the same units with other blocks."""

PUBLISHED_COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
}


@pytest.fixture(scope="module", params=ARCHS)
def ready(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """A model whose `apply` is compiled, its variables, and images of an odd size."""
    model = create_model(request.param, outputs=3)
    compiled = model._replace(apply=jax.jit(model.apply, static_argnames=("train_bn", "start")))
    return compiled, model.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 33, 40, 3))


@pytest.mark.parametrize("arch", tuple(MODELS))
def test_the_numbers_of_parameters_are_torchvisions(arch: Arch) -> None:
    shapes = jax.eval_shape(create_model(arch, outputs=1000).init, jax.random.key(0))
    assert count(shapes["params"]) == PUBLISHED_COUNTS[arch]


def test_every_stage_can_be_read(ready: Any) -> None:
    model, variables, images = ready
    output = model.apply(variables, images)
    assert output.stages.keys() == set(model.spec.stages)
    np.testing.assert_array_equal(output.stages[model.spec.head], output.logits)
    assert output.logits.shape == (2, 3)
    assert all(np.isfinite(value).all() for value in output.stages.values())


def test_any_cut_gives_the_same(ready: Any) -> None:
    model, variables, images = ready
    whole = model.apply(variables, images).logits
    features = jax.jit(model.features, static_argnums=2)
    for unit in model.spec.units[-1::-4]:
        tail = model.apply(variables, features(variables, images, unit), start=unit)
        np.testing.assert_allclose(tail.logits, whole, rtol=1e-5, atol=1e-5, err_msg=unit)
        assert flatten(tail.batch_stats).keys() == flatten(variables["batch_stats"]).keys()
    np.testing.assert_array_equal(features(variables, images, model.spec.units[0]), images)
    pooled = model.apply(variables, images).stages["avgpool"]
    np.testing.assert_allclose(features(variables, images, model.spec.head), pooled, rtol=1e-5, atol=1e-5)


def test_running_statistics_move_only_where_asked(ready: Any) -> None:
    model, variables, images = ready
    module = {"resnet18": "layer4.1.bn2", "mobilenet_v2": "features.18.1"}[model.spec.arch]
    before = flatten(variables["batch_stats"])
    after = flatten(model.apply(variables, images, train_bn=frozenset({module})).batch_stats)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {f"{module}.mean", f"{module}.var"}


def test_dropout_is_mobilenets_alone_and_asks_for_a_key(ready: Any) -> None:
    model, variables, images = ready
    plain = model.apply(variables, images).logits
    one, again, other = (model.apply(variables, images, dropout_key=jax.random.key(k)).logits for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.array_equal(one, other) is (model.spec.arch == "resnet18")
    assert np.array_equal(one, plain) is (model.spec.arch == "resnet18")


def test_dropout_zeroes_a_fifth_and_scales_the_rest(ready: Any) -> None:
    model, variables, images = ready
    if model.spec.arch != "mobilenet_v2":
        pytest.skip("ResNets have no dropout")
    head = variables["params"]["classifier"]["1"]
    train_bn = frozenset(name.rsplit(".", 1)[0] for name in flatten(variables["batch_stats"]))
    outputs = [model.apply(variables, images, train_bn=train_bn, dropout_key=jax.random.key(k)) for k in range(200)]
    features = outputs[0].stages["avgpool"][:1]
    dropped = [output.logits[:1] - head["bias"][None] for output in outputs]
    kept = np.asarray(features @ head["kernel"])
    np.testing.assert_allclose(np.mean(dropped, axis=0), kept, atol=4 * np.std(dropped, axis=0).max() / np.sqrt(200))
    variance = np.square(np.asarray(features)[..., None] * np.asarray(head["kernel"])[None]).sum(1) * 0.2 / 0.8
    np.testing.assert_allclose(np.var(dropped, axis=0), variance, rtol=0.4)


def test_bfloat16_computes_the_trunk_and_keeps_the_rest_in_float32(ready: Any) -> None:
    wide, variables, images = ready
    narrow = create_model(wide.spec.arch, outputs=3, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.init(jax.random.key(0)))} == {jnp.dtype(jnp.float32)}
    exact, rounded = wide.apply(variables, images), jax.jit(narrow.apply)(variables, images)
    *trunk, pooled, _ = narrow.spec.stages
    assert {rounded.stages[stage].dtype for stage in trunk} == {jnp.dtype(jnp.bfloat16)}
    assert rounded.logits.dtype == rounded.stages[pooled].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded.batch_stats)} == {jnp.dtype(jnp.float32)}
    middle = trunk[len(trunk) // 2]
    a, b = (np.asarray(output.stages[middle], np.float32) for output in (exact, rounded))
    assert 0 < np.sqrt(np.square(a - b).mean()) < 0.05 * np.sqrt(np.square(a).mean())


def test_the_key_decides_the_weights() -> None:
    model = create_model("resnet18")
    one, other = (flatten(model.init(jax.random.key(k)))["params.conv1.kernel"] for k in (0, 1))
    assert not np.array_equal(one, other)


def test_an_unknown_network_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'resnet81' \(did you mean 'resnet18'\?\): choose one of resnet18, .*, mob"):
        create_model("resnet81")


def test_the_xla_form_has_plain_convolutions_on_a_cpu_too() -> None:
    models = [create_model("mobilenet_v2", conv_form=form) for form in ("cpu", "xla")]
    shapes = jax.eval_shape(models[0].init, jax.random.key(0)), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    programs = [jax.jit(model.apply).lower(*shapes).as_text() for model in models]
    assert [program.count("stablehlo.convolution") for program in programs] == [1, 52]


@pytest.fixture
def _mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of the user's own."""
    monkeypatch.setitem(MODELS, "mine", TINY)


@pytest.mark.usefixtures("_mine")
def test_a_network_of_ones_own_is_an_entry() -> None:
    model, images = create_model("mine", outputs=2), jnp.ones((2, 8, 8, 3))
    variables = model.init(jax.random.key(0))
    output = model.apply(variables, images)
    assert output.logits.shape == (2, 2)
    np.testing.assert_array_equal(model.features(variables, images, "layer4"), output.stages["conv1"])
    groups = parse_trainable("fc,layer4:0.1", variables["params"])
    assert [group.name for group in groups] == ["fc", "layer4"]


@pytest.mark.usefixtures("_mine")
@pytest.mark.parametrize("train_bn", [frozenset(), frozenset({"bn1", "bn4"})], ids=["eval", "train"])
def test_both_forms_give_the_same(train_bn: frozenset[str]) -> None:
    cpu, xla = (create_model("mine", conv_form=form) for form in ("cpu", "xla"))
    variables, images = cpu.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 17, 16, 3))
    ours, theirs = (model.apply(variables, images, train_bn=train_bn) for model in (cpu, xla))
    assert_same(jax.tree.leaves(ours), jax.tree.leaves(theirs), 1e-5)
