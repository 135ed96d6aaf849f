"""Fine-tune ResNet18 on a CSV of faces, and print for whom it fails: python examples/finetune_csv.py faces.csv"""

import sys
from pathlib import Path

import jaxage


def main(table: Path) -> None:
    """Train in a folder beside the table."""
    config = jaxage.TrainConfig(
        data=table,
        trainable="fc,layer4,layer3",
        image_size=112,
        epochs=10,
        out=table.with_suffix(".run"),
        resume=True,  # start the script again, and it continues
    )
    test = jaxage.train(config)["test"]
    low, high = test["mae_ci95"]
    print(f"MAE {test['mae']:.2f} years, 95 % interval {low:.2f} to {high:.2f}")
    for column, groups in test["groups"].items():
        for group in groups:
            if n := group["n"]:
                print(f"{column} {group['name']}: MAE {group['mae']:.1f}, bias {group['bias']:+.1f}, {n} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
