"""From an extracted tree of IMDB-WIKI's crops to a CSV that training reads, every choice written down beside it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.data.funnel import Criteria, funnel, funnel_table
from jaxage.data.imdb import Collection, read_metadata
from jaxage.data.records import SPLITS, DataError, make_records
from jaxage.data.source import path_fault
from jaxage.data.splits import assign_splits, leakage
from jaxage.pretrained.store import sha256_of
from jaxage.report.writers import write_csv
from jaxage.run import write_json
from jaxage.types import SplitRule


def prepare(
    collection: Collection,
    root: Path,
    criteria: Criteria,
    split: SplitRule = "random",
    say: Callable[[str], None] = print,
) -> Path:
    """Write `ROOT/imdb.csv` (path, age, identity, split) and `ROOT/imdb.manifest.json` from `ROOT/imdb.mat`.

    The images are not looked at: training checks every one. The manifest has the `funnel` (kept and dropped at each
    step), `refused_paths` (absolute, upwards or otherwise unsafe ones among what was kept), `criteria`, `split`,
    `splits` (counts), `leakage`, and `source_sha256`. Raises DataError for a .mat file that cannot be used, and if the
    criteria leave a split empty.
    """
    source = root / f"{collection}.mat"
    metadata = read_metadata(source, collection)
    kept, steps = funnel(metadata, criteria)
    say(funnel_table(steps))
    safe = np.asarray([path_fault(path) is None for path in metadata.path.tolist()], bool)
    rows = np.flatnonzero(kept & safe)
    if not len(rows):
        raise DataError(f"{source}: no record meets the criteria: lower --min-face-score or widen the ages")
    ages = metadata.ages(criteria.age_formula)[rows]
    records = make_records(metadata.path[rows].tolist(), ages.astype(float).tolist(), metadata.identity[rows].tolist())
    records = assign_splits(records, split, criteria.seed)
    manifest: dict[str, Any] = {
        "collection": collection,
        "source_sha256": sha256_of(source),
        "funnel": [step._asdict() for step in steps],
        "refused_paths": int((kept & ~safe).sum()),
        "criteria": asdict(criteria),
        "split": split,
        "splits": {name: len(records.rows_of(name)) for name in SPLITS},
        "leakage": leakage(records),
    }
    table = root / f"{collection}.csv"
    columns = records.path, ages.astype(str), records.identity, records.split
    write_csv(table, ("path", "age", "identity", "split"), zip(*columns, strict=True))
    write_json(root / f"{collection}.manifest.json", manifest)
    counts = ", ".join(f"{count:,} {name}" for name, count in manifest["splits"].items())
    say(f"{counts}; {manifest['refused_paths']} unsafe paths refused")
    say(f"written: {table}; go on with train --data {table}")
    return table
