"""How the work before the first step grows with the number of faces: CPU seconds and memory, without images.

    python scripts/growth.py 10000 100000 1000000

For each size a process of its own writes a table like that of IMDB-WIKI, then reads it, divides it at random and by
identity, finds near-duplicates among random fingerprints, hashes the rows, and draws the batches of an epoch.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxage.data.image_cache import hash_json
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.prepare.duplicates import near_pairs
from jaxage.data.sampler import epoch_batches
from jaxage.data.splits import assign_splits
from jaxage.training.view_index import ViewIndex


def write_table(table: Path, count: int) -> None:
    """A CSV of `count` rows, 20 of each person."""
    with table.open("w", encoding="utf-8") as file:
        file.write("path,age,identity\n")
        for i in range(count):
            name = f"nm{i // 20:07}"
            path = f"{i % 100:02}/{name}_rm{i * 7919 % 10**10:010}_1964-8-1_2004.jpg"
            file.write(f"{path},{i % 101},{name}\n")


def measure(count: int) -> dict[str, float]:
    """CPU seconds of each part, and the largest memory of the process in GB."""
    found: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = jax.block_until_ready(function())
        found[name] = time.process_time() - started
        return result

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        table = Path(folder) / "faces.csv"
        write_table(table, count)
        records = timed("read", lambda: read_csv(table))
        undivided = replace(records, split=np.full(len(records), ""))
        timed("split by identity", lambda: assign_splits(undivided, "identity", 0))
        divided = timed("split at random", lambda: assign_splits(undivided, "random", 0))
        prints = np.random.default_rng(0).integers(0, 2**64, (count, 2), np.uint64)
        timed("near-duplicates", lambda: near_pairs(prints, pool))
        timed("hash", lambda: hash_json(zip(divided.path.tolist(), divided.age.tolist(), strict=True)))
        index = ViewIndex(count, divided.rows_of("train"), 2, flip=True)
        timed("first epoch", lambda: epoch_batches(index.view_rows, 0, 1, 512))
    found["memory, GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="+", type=int, help="numbers of faces")
    counts = parser.parse_args().counts
    if len(counts) == 1:
        found = measure(counts[0])
        print("faces | " + " | ".join(found))
        print(f"{counts[0]:,} | " + " | ".join(f"{value:.2f}" for value in found.values()))
        return
    for i, count in enumerate(counts):
        lines = subprocess.check_output([sys.executable, __file__, str(count)], text=True).splitlines()
        print("\n".join(lines[i > 0 :]), flush=True)


if __name__ == "__main__":
    main()
