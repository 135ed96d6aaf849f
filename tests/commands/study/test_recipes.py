import pytest

from jaxage.commands.study.recipes import DESCRIPTIONS, HEADS, REPORT_MODELS, ModelSpec, parse_model, recipe
from jaxage.config import TrainConfig
from jaxage.models.registry import create_model
from jaxage.training.freeze import parse_trainable
from jaxage.types import UserError
from tests.models.evaluate import shapes


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


@pytest.mark.parametrize("spec", REPORT_MODELS, ids=lambda spec: spec.slug)
@pytest.mark.parametrize("protocol", DESCRIPTIONS)
def test_every_recipe_can_be_trained(protocol: str, spec: ModelSpec) -> None:
    """And lets the same modules learn as the report did, whatever their rates."""
    fields = recipe(protocol, spec, 2)  # type: ignore[arg-type]
    config = TrainConfig(arch=spec.arch, **({"trainable": spec.trainable} | fields))
    params = shapes(spec.arch)["params"]
    assert create_model(spec.arch).spec.head == HEADS[spec.arch]
    given = {group.name for group in parse_trainable(config.trainable, params)}
    assert given - {HEADS[spec.arch]} == set(spec.trainable.split(",")) - {HEADS[spec.arch]}


def test_the_reports_recipe_is_one_for_all() -> None:
    assert len({str(recipe("report", spec, 2)) for spec in REPORT_MODELS}) == 1
    assert recipe("report", REPORT_MODELS[0], 2)["frozen_bn"] == "train"


def test_models_are_parsed() -> None:
    assert parse_model("resnet18:fc,layer4") is REPORT_MODELS[3]
    assert parse_model("resnet18:all") == ModelSpec("resnet18", "all", None)
    for text in ("resnet50:fc", "resnet18", "resnet18:"):
        with pytest.raises(UserError, match=r"is no model; write NETWORK:LAYERS"):
            parse_model(text)
