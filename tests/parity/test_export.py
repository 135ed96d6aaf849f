"""Exported weights in torch: timm from the folder, and torchvision by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxage.commands.export.run import export
from jaxage.training.predictor import load_predictor
from tests.commands.export.test_export import CONFIG, images, write
from tests.parity.reference import import_torchvision


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_timm_and_torchvision_load_what_export_writes(arch: str, tmp_path: Path) -> None:
    torchvision = import_torchvision()
    torch, torch_safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    said: list[str] = []
    out = export(write(tmp_path, replace(CONFIG, arch=arch)), "torch", log=said.append)
    assert "largest difference from JAX" in said[0]  # by timm
    named = out / ("torchvision.safetensors" if arch == "mobilenet_v2" else "model.safetensors")
    model = getattr(torchvision.models, arch)(num_classes=1)
    model.load_state_dict(torch_safetensors.load_file(named))
    x = (images().astype(np.float32) / 255 - np.float32(CONFIG.mean)) / np.float32(CONFIG.std)
    views = [np.ascontiguousarray(view.transpose(0, 3, 1, 2)) for view in (x, x[:, :, ::-1])]
    with torch.no_grad():
        outputs = [model.eval()(torch.from_numpy(view)).numpy()[:, 0] for view in views]
    ages = np.mean([np.maximum(z * CONFIG.age_std + CONFIG.age_mean, 0) for z in outputs], axis=0)
    np.testing.assert_allclose(ages, [each.age for each in load_predictor(tmp_path, 4, 0.9)(images())], atol=2e-3)
