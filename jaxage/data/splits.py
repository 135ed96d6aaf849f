"""Which split a face belongs to, by a hash of its name: the same on every machine, whatever else is in the table."""

import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np

from jaxage.data.records import SPLITS, DataError, Records
from jaxage.types import SplitRule

RATIOS = (0.6, 0.2, 0.2)


def assign_splits(records: Records, how: SplitRule, seed: int, ratios: tuple[float, float, float] = RATIOS) -> Records:
    """Decide the split of every row, for a table that has none; `ratios` are the shares of train, validation, test.

    BLAKE2b, keyed with the seed, maps a name to [0, 1), which is cut at the cumulative ratios. For `random` the name is
    the path; for `identity` it is the identity, or the path where that is "" (a person of their own). So adding or
    removing rows moves no other row. The shares are met as by chance: at n names within about 1/sqrt(n) (0.01 at
    10,000), more widely where a few identities own many images.

    Raises DataError if a split stays empty, or for `identity` if no row has one. Raises ValueError for a table that has
    splits, and for ratios that are not positive or do not sum to 1.
    """
    if (records.split != "").any():
        raise ValueError("the table has splits already")
    if min(ratios) <= 0 or not math.isclose(sum(ratios), 1):
        raise ValueError(f"ratios must be positive and sum to 1, got {ratios}")
    names = [("path", path) for path in records.path.tolist()]
    if how == "identity":
        if not (records.identity != "").any():
            raise DataError("--split identity needs a column identity (or group) in the data, or use --split random")
        known = zip(records.identity.tolist(), names, strict=True)
        names = [("identity", identity) if identity else name for identity, name in known]
    edges = np.cumsum(ratios)[:2]
    places = np.asarray([place(kind, name, seed) for kind, name in names], np.float64)
    split = np.asarray(SPLITS)[np.searchsorted(edges, places, side="right")]
    decided = replace(records, split=split)
    require_splits(decided)
    return decided


def place(kind: str, name: str, seed: int) -> float:
    """A point in [0, 1) for a name of some kind, by BLAKE2b keyed with the seed: as good as random, and lasting."""
    digest = hashlib.blake2b(f"{kind}:{name}".encode(), key=str(seed).encode(), digest_size=8)
    return int.from_bytes(digest.digest()) / 2**64


def require_splits(records: Records) -> None:
    """Raises DataError if a split has no row."""
    if empty := records.empty_splits():
        raise DataError(
            f"none of the {len(records)} images is in {' or '.join(empty)}: add images, try another --seed, or give "
            "every row a split in the CSV, each of the three to some"
        )


def leakage(records: Records) -> dict[str, Any]:
    """How many test images show someone who is in the training split too, as JSON values.

    `test_images`; `test_images_known`, those with an identity; `test_images_seen`, those of them whose identity is in
    train; `seen_share`, the latter by the former, None if no identity is known.
    """
    test = records.identity[records.rows_of("test")]
    known = test[test != ""]
    seen = int(np.isin(known, records.identity[records.rows_of("train")]).sum())
    return {
        "test_images": len(test),
        "test_images_known": len(known),
        "test_images_seen": seen,
        "seen_share": seen / len(known) if len(known) else None,
    }
