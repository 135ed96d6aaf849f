"""The data behind docs/results.md, made of UTKFace, and the trade of `--balance` on validation and test.

python -m tests.accuracy RUN utkface.csv FOLDER

FOLDER gets groups.csv (with ethnicities, from the file names), and faces made gray and 32 px small: mine.csv (200 of
validation) and others.csv (1,000 of test).
"""

import csv
import io
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from jaxage.commands.evaluate import predict_images
from jaxage.config import cache_folder
from jaxage.data.files import image_root, open_files
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.importers.utkface import parse_utkface
from jaxage.data.load import load_data
from jaxage.report.balance import balance_trade
from jaxage.training.export import load_model
from jaxage.training.run_folder import read_config

SMALL = {"mine": ("validation", 200), "others": ("test", 1000)}


def write_data(table: Path, folder: Path) -> None:
    """Write the three tables and the small faces; the images of groups.csv are those of the table."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = image_root(table, str(read_csv(table).path[0]))
    link = folder / f"groups{''.join(images.suffixes)}"
    if not link.exists():
        os.link(images, link)
    for row in rows:
        label = parse_utkface(row["path"])
        row["ethnicity"] = label.ethnicity if label else ""
    write_rows(folder / "groups.csv", rows)
    rng = np.random.default_rng(0)
    with open_files(images) as files:
        for name, (split, count) in SMALL.items():
            part = [row for row in rows if row["split"] == split]
            chosen = [part[place] for place in sorted(rng.permutation(len(part))[:count])]
            for number, row in enumerate(chosen):
                face = Image.open(io.BytesIO(files.read(row["path"]))).convert("L")
                row["path"], row["split"] = f"{name}-{number:04}.png", ""
                face.resize((32, 32), Image.Resampling.LANCZOS).save(folder / row["path"])
            write_rows(folder / f"{name}.csv", chosen)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def print_trade(run: Path) -> None:
    variables, model_config = load_model(run)
    config = replace(read_config(run), image_size=model_config.image_size)
    dataset = load_data(config, cache_folder(), contract=model_config.input())
    records = dataset.records
    for split in ("validation", "test"):
        rows = records.rows_of(split)
        predicted = predict_images(variables, model_config, dataset, rows, config)
        trade = balance_trade(predicted, records.age[rows], records.age[records.rows_of("train")], config.balance)
        for point in trade:
            print(split, {name: value and round(value, 2) for name, value in point.items()})


if __name__ == "__main__":
    run, table, folder = map(Path, sys.argv[1:])
    folder.mkdir(exist_ok=True)
    write_data(table, folder)
    print_trade(run)
