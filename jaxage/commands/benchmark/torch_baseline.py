"""The same training in torch, as a baseline for the benchmark. jaxage itself does not need torch.

`python -m jaxage.commands.benchmark.torch_baseline JSON` runs the usual loop from files to test metrics; JSON has the
fields of `UsualLoop`.
"""

import csv
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxage.types import Arch, Dtype, Rows, StoredImages, Years
from jaxage.utils.trees import is_within

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torch_available() -> bool:
    """Whether torch and torchvision can be imported."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: built for another version of torch
        return False
    return True


class TorchModel:
    """Fast training in torch: images and network on the device in channels-last, no gradients for frozen layers, frozen
    BatchNorm in eval mode, fused AdamW on a GPU, autocast if `dtype` is bfloat16, `torch.compile` if `compiled`.
    """

    def __init__(
        self, arch: Arch, trainable: str, images: StoredImages, ages: Years, dtype: Dtype, *, compiled: bool = False
    ) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        self._images = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        self._ages = torch.from_numpy(np.ascontiguousarray(ages)).to(self._device)
        self._mean, self._std = (torch.tensor(x, device=self._device)[None, :, None, None] for x in (_MEAN, _STD))
        self._dtype = dtype
        self.network = freeze(build(arch), trainable).to(self._device, memory_format=torch.channels_last)
        learning = [p for p in self.network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(learning, fused=self._device.type == "cuda")
        self._forward: Callable[..., Any] = torch.compile(self.network) if compiled else self.network

    def train(self, rows: Rows) -> None:
        """One training step on these rows."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._torch.nn.functional.l1_loss(self._logits(rows), (self._take(self._ages, rows) - 40) / 20)
        loss.backward()
        self._optimizer.step()

    def predict(self, rows: Rows) -> Any:
        """The output for these rows, in eval mode."""
        self.network.eval()
        with self._torch.inference_mode():
            output = self._logits(rows)
        keep_frozen(self.network)
        return output

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()

    def _take(self, tensor: Any, rows: Rows) -> Any:
        return tensor[self._torch.from_numpy(rows.astype(np.int64)).to(self._device)]

    def _logits(self, rows: Rows) -> Any:
        torch = self._torch
        batch = self._take(self._images, rows).permute(0, 3, 1, 2)  # channels-last in memory already
        batch = (batch.float() / 255 - self._mean) / self._std
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._dtype == "bfloat16"):
            return self._forward(batch)[:, 0].float()


def build(arch: Arch) -> Any:
    """torchvision's network of that name with one output and random weights. The speed does not depend on them."""
    import torchvision

    return getattr(torchvision.models, arch)(num_classes=1)


def freeze(network: Any, trainable: str) -> Any:
    """Train only the named modules; the BatchNorm of all others uses its running statistics.

    Args:
        network: A torch module. It is changed in place and returned.
        trainable: The trainable layers, as for `jaxage train --trainable`. Learning-rate multipliers are ignored.
    """
    names = [group.partition(":")[0].strip() for group in trainable.split(",")]
    trained = {
        name: "all" in names or any(is_within(name, each) for each in names) for name, _ in network.named_modules()
    }
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trained[name.rpartition(".")[0]])
    network.jaxage_trained = trained
    return keep_frozen(network)


def keep_frozen(network: Any) -> Any:
    """Set training mode, but eval mode for frozen BatchNorm."""
    network.train()
    for name, module in network.named_modules():
        if "BatchNorm" in type(module).__name__ and not network.jaxage_trained[name]:
            module.eval()
    return network


class UsualLoop(NamedTuple):
    """What the usual loop trains.

    table: a CSV with the columns path, age and split; paths are relative to its folder. arch: a name in
    `torchvision.models`. trainable: the trainable layers, as for `jaxage train --trainable`. size: height and width in
    pixels. batch_size: images per step. weights: a file of `numpy.savez` with the trunk's tensors; random without it.
    """

    table: str
    arch: Arch
    trainable: str
    size: int
    batch_size: int
    epochs: int
    weights: str | None = None
    seed: int = 0


def usual_loop(loop: UsualLoop, log: Callable[[str], None] = print) -> dict[str, float]:
    """Fine-tune as tutorials do, from files to test metrics.

    A DataLoader decodes, flips and normalizes in every epoch. The network is in training mode; frozen layers have
    `requires_grad=False`. It is validated after each epoch and tested after the last.

    Args:
        loop: What is trained.
        log: Takes a line of JSON after each epoch, like those of `metrics.jsonl`.

    Returns:
        `validation_mae` and `test_mae` in years.
    """
    import torch
    from PIL import Image
    from torchvision import transforms

    table, size, batch_size = Path(loop.table), loop.size, loop.batch_size
    torch.manual_seed(loop.seed)
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
    network = freeze(build(loop.arch), loop.trainable).to(device)
    if loop.weights:
        with np.load(loop.weights) as tensors:
            network.load_state_dict({name: torch.from_numpy(tensors[name]) for name in tensors.files}, strict=False)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=5e-4)

    def error(split: str) -> float:
        network.eval()
        with torch.no_grad():
            parts = [(network(x.to(device))[:, 0].cpu() - y).abs() for x, y in loaders[split]]
        return 20 * float(torch.cat(parts).mean())

    for epoch in range(1, loop.epochs + 1):
        network.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            output = network(x.to(device))[:, 0]
            torch.nn.functional.l1_loss(output, y.to(device, torch.float32)).backward()
            optimizer.step()
        validation = error("validation")
        log(json.dumps({"epoch": epoch, "validation": {"mae": validation}}))
    return {"validation_mae": validation, "test_mae": error("test")}


if __name__ == "__main__":
    started = time.perf_counter()
    found = usual_loop(UsualLoop(**json.loads(sys.argv[1])), partial(print, flush=True))
    print(f"{time.perf_counter() - started:.1f} s: {found}")
