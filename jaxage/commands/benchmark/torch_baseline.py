"""The same work in torch, to measure against: nothing of it is needed to use jaxage.

`python -m jaxage.commands.benchmark.torch_baseline FACES.csv ARCH LAYERS SIZE BATCH EPOCHS` is the usual loop from
files to test metrics.
"""

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.types import Arch, Dtype

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def available() -> bool:
    """Whether torch and torchvision can be imported."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # the latter where its build does not fit torch's
        return False
    return True


class Torch:
    """torch at its best: images and network on the device in channels-last, no gradient for what does not learn, frozen
    BatchNorm in eval mode, AdamW fused where it can be, autocast if `dtype` is bfloat16, `torch.compile` if asked.
    """

    def __init__(
        self, arch: Arch, trainable: str, images: np.ndarray, ages: np.ndarray, dtype: Dtype, *, compiled: bool = False
    ) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._images = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        self._ages = torch.from_numpy(np.ascontiguousarray(ages)).to(self._device)
        self._mean, self._std = (torch.tensor(x, device=self._device)[None, :, None, None] for x in (_MEAN, _STD))
        self._dtype = dtype
        self.network = freeze(build(arch), trainable).to(self._device, memory_format=torch.channels_last)
        learning = [p for p in self.network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(learning, fused=self._device.type == "cuda")
        self._forward: Callable[..., Any] = torch.compile(self.network) if compiled else self.network

    def train(self, rows: np.ndarray) -> None:
        """A step on these rows."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._torch.nn.functional.l1_loss(self._logits(rows), (self._take(self._ages, rows) - 40) / 20)
        loss.backward()
        self._optimizer.step()

    def predict(self, rows: np.ndarray) -> Any:
        """The output for these rows, BatchNorm by running statistics."""
        self.network.eval()
        with self._torch.inference_mode():
            output = self._logits(rows)
        keep_frozen(self.network)
        return output

    def wait(self) -> None:
        """Until all that was asked for is done."""
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()

    def _take(self, tensor: Any, rows: np.ndarray) -> Any:
        return tensor[self._torch.from_numpy(rows.astype(np.int64)).to(self._device)]

    def _logits(self, rows: np.ndarray) -> Any:
        torch = self._torch
        batch = self._take(self._images, rows).permute(0, 3, 1, 2)  # channels-last in memory already
        batch = (batch.float() / 255 - self._mean) / self._std
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._dtype == "bfloat16"):
            return self._forward(batch)[:, 0].float()


def build(arch: Arch) -> Any:
    """torchvision's network with a head of one output, at random weights: its speed does not depend on them."""
    import torchvision

    return getattr(torchvision.models, arch)(num_classes=1)


def freeze(network: Any, trainable: str) -> Any:
    """`requires_grad` for the named modules alone, and the others' BatchNorm by running statistics."""
    names = trainable.split(",")
    learns = {
        name: "all" in names or any(name == each or name.startswith(each + ".") for each in names)
        for name, _ in network.named_modules()
    }
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(learns[name.rpartition(".")[0]])
    network.jaxage_learns = learns
    return keep_frozen(network)


def keep_frozen(network: Any) -> Any:
    """Training mode, but for BatchNorm that does not learn."""
    network.train()
    for name, module in network.named_modules():
        if "BatchNorm" in type(module).__name__ and not network.jaxage_learns[name]:
            module.eval()
    return network


def usual_loop(table: Path, arch: Arch, trainable: str, size: int, batch_size: int, epochs: int) -> dict[str, float]:
    """A fine-tuning as tutorials write it, from files to test MAE.

    A DataLoader decodes, flips and normalizes in each epoch; the network is in training mode, with `requires_grad` off
    for what is frozen; validation follows each epoch, the test the last.
    """
    import torch
    from PIL import Image
    from torchvision import transforms

    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    resize = [transforms.Resize(size), transforms.CenterCrop(size)]
    tail = [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    augmented = transforms.Compose([*resize, transforms.RandomHorizontalFlip(), *tail])
    plain = transforms.Compose([*resize, *tail])

    class Faces(torch.utils.data.Dataset):  # type: ignore[misc]
        def __init__(self, split: str) -> None:
            self.rows = [row for row in rows if row["split"] == split]
            self.transform = augmented if split == "train" else plain

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> tuple[Any, float]:
            row = self.rows[i]
            with Image.open(table.parent / row["path"]) as image:
                return self.transform(image.convert("RGB")), (float(row["age"]) - 40) / 20

    loaders = {
        split: torch.utils.data.DataLoader(Faces(split), batch_size, shuffle=split == "train", num_workers=2)
        for split in ("train", "validation", "test")
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = freeze(build(arch), trainable).to(device)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=5e-4)

    def error(split: str) -> float:
        network.eval()
        with torch.no_grad():
            parts = [(network(x.to(device))[:, 0].cpu() - y).abs() for x, y in loaders[split]]
        return 20 * float(torch.cat(parts).mean())

    for _ in range(epochs):
        network.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            output = network(x.to(device))[:, 0]
            torch.nn.functional.l1_loss(output, y.to(device, torch.float32)).backward()
            optimizer.step()
        validation = error("validation")
    return {"validation_mae": validation, "test_mae": error("test")}


if __name__ == "__main__":
    started = time.perf_counter()
    faces, arch, layers, *numbers = sys.argv[1:]
    print(usual_loop(Path(faces), arch, layers, *map(int, numbers)), f"{time.perf_counter() - started:.1f} s")  # type: ignore[arg-type]
