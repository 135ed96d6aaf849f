"""Make the goldens again, from torchvision in float64: `python -m tests.goldens.make` (needs jaxage[parity])."""

from pathlib import Path

import numpy as np

from jaxage.pretrained.convert import to_flax
from jaxage.utils.trees import flatten
from tests.goldens.recipe import SIZES, images, sample, targets
from tests.parity.reference import build, run, taps

FOLDER = Path(__file__).parent


def main() -> None:
    for arch in ("resnet18", "mobilenet_v2"):
        found: dict[str, np.ndarray] = {}
        for size in SIZES:
            for train in (False, True):
                case = f"{size[0]}x{size[1]}/{'train' if train else 'eval'}"
                reference = run(build(arch, "torchvision"), taps(arch, "torchvision"), images(size), targets(), train)
                after = to_flax(reference.state, arch).variables
                parts = {"stages": reference.stages}
                if train:
                    parts["batch_stats"] = flatten(after["batch_stats"])
                if train and size == SIZES[0]:
                    gradient = to_flax(reference.state | reference.gradient, arch).variables["params"]
                    parts["gradient"] = flatten(gradient)
                found |= {
                    f"{case}/{part}/{name}": sample(v) for part, tree in parts.items() for name, v in tree.items()
                }
        np.savez_compressed(FOLDER / f"{arch}.npz", **found)
        print(arch, len(found), (FOLDER / f"{arch}.npz").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
