import pytest

from jaxage.models.registry import MODELS
from jaxage.pretrained.keymap import tables
from jaxage.types import Arch
from tests.pretrained.state import torch_state


def modules(arch: Arch) -> list[str]:
    return sorted({name.rsplit(".", 1)[0] for name in torch_state(arch)})


@pytest.mark.parametrize("arch", tuple(MODELS))
def test_every_table_names_every_module_once(arch: Arch) -> None:
    for table in tables(arch, modules(arch)).values():
        assert list(table) == modules(arch)
        assert len(set(table.values())) == len(table)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_resnets_have_torchvisions_names_or_numbers(arch: Arch) -> None:
    found = tables(arch, modules(arch))
    assert list(found) == ["torchvision", "torchvision, numbered children"]
    assert all(ours == theirs for ours, theirs in found["torchvision"].items())
    assert found["torchvision, numbered children"]["layer2.0.downsample.1"] == "5.0.downsample.1"


@pytest.mark.parametrize(
    ("ours", "flat", "timm"),
    [
        ("features.0.0", "features.0.0", "conv_stem"),
        ("features.0.1", "features.0.1", "bn1"),
        ("features.1.conv.0.0", "features.1.conv.0", "blocks.0.0.conv_dw"),
        ("features.1.conv.0.1", "features.1.conv.1", "blocks.0.0.bn1"),
        ("features.1.conv.1", "features.1.conv.3", "blocks.0.0.conv_pw"),
        ("features.1.conv.2", "features.1.conv.4", "blocks.0.0.bn2"),
        ("features.2.conv.0.0", "features.2.conv.0", "blocks.1.0.conv_pw"),
        ("features.2.conv.1.0", "features.2.conv.3", "blocks.1.0.conv_dw"),
        ("features.2.conv.2", "features.2.conv.6", "blocks.1.0.conv_pwl"),
        ("features.2.conv.3", "features.2.conv.7", "blocks.1.0.bn3"),
        ("features.17.conv.1.1", "features.17.conv.4", "blocks.6.0.bn2"),
        ("features.18.0", "features.18.0", "conv_head"),
        ("features.18.1", "features.18.1", "bn2"),
        ("classifier.1", "classifier.1", "classifier"),
    ],
)
def test_mobilenets_modules_by_their_other_names(ours: str, flat: str, timm: str) -> None:
    found = tables("mobilenet_v2", modules("mobilenet_v2"))
    assert found["torchvision"][ours] == ours
    assert found["torchvision, flat blocks"][ours] == flat
    assert found["timm"][ours] == timm
