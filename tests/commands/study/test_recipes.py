import jax
import pytest

from jaxage.commands.study.recipes import DESCRIPTIONS, REPORT_MODELS, ModelSpec, head_only, parse_model, recipe
from jaxage.config import TrainConfig
from jaxage.models.registry import create_model
from jaxage.training.freeze import parse_trainable
from jaxage.types import UserError


def test_the_seven_models_are_the_reports() -> None:
    assert [spec.name for spec in REPORT_MODELS] == [
        "mobilenet_v2:classifier",
        "mobilenet_v2:all",
        "resnet18:fc",
        "resnet18:fc,layer4",
        "resnet18:fc,layer4,layer3",
        "resnet18:fc,layer4,layer3,layer2",
        "resnet18:fc,layer4,layer3,layer2,layer1",
    ]
    assert [spec.head_only for spec in REPORT_MODELS] == [True, False, True, False, False, False, False]
    assert len({spec.slug for spec in REPORT_MODELS}) == 7


@pytest.mark.parametrize(
    ("arch", "trainable", "expected"),
    [
        ("resnet18", "fc", True),
        ("resnet18", "fc:0.5", True),
        ("resnet18", "fc:0.5,layer4", False),
        ("resnet18", "fc, layer4", False),
        ("resnet18", "all", False),
        ("mobilenet_v2", "classifier", True),
        ("mobilenet_v2", "classifier.1", True),
        ("mobilenet_v2", "classifier.1,features.18", False),
    ],
)
def test_only_the_head_is_trained_if_every_group_lies_in_it(arch: str, trainable: str, expected: bool) -> None:
    assert head_only(arch, trainable) is expected
    epochs = recipe("best", ModelSpec(arch, trainable), 2)["epochs"]
    assert epochs == (20 if expected else 2)


def test_layers_that_a_network_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="layr4"):
        head_only("resnet18", "layr4")


@pytest.mark.parametrize("spec", REPORT_MODELS, ids=lambda spec: spec.slug)
@pytest.mark.parametrize("protocol", DESCRIPTIONS)
def test_every_recipe_trains_the_layers_of_the_report(protocol: str, spec: ModelSpec) -> None:
    """Whatever their rates."""
    fields = recipe(protocol, spec, 2)  # type: ignore[arg-type]
    config = TrainConfig(arch=spec.arch, **({"trainable": spec.trainable} | fields))
    params = jax.eval_shape(create_model(spec.arch).init, jax.random.key(0))["params"]
    given = {group.name for group in parse_trainable(config.trainable, params)}
    assert given == set(spec.trainable.split(","))


def test_the_reports_recipe_is_one_for_all() -> None:
    assert len({str(recipe("report", spec, 2)) for spec in REPORT_MODELS}) == 1
    assert recipe("report", REPORT_MODELS[0], 2)["frozen_bn"] == "train"


def test_models_are_parsed() -> None:
    assert parse_model("resnet18:fc,layer4") is REPORT_MODELS[3]
    assert parse_model("resnet18: fc, layer4") is REPORT_MODELS[3]
    assert parse_model("resnet18:all") == ModelSpec("resnet18", "all", None)
    for text in ("vgg16:fc", "resnet18", "resnet18:"):
        with pytest.raises(UserError, match=r"is not a model: write NETWORK:LAYERS"):
            parse_model(text)
