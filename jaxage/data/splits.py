"""Which split a face belongs to, by a hash of its name: the same on every machine, whatever else the table holds."""

import hashlib
import math
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from jaxage.data.records import SPLITS, DataError, Records
from jaxage.types import Json, SplitRule, Years

RATIOS = (0.6, 0.2, 0.2)

_Ratios = tuple[float, float, float]

Sides = Int[np.ndarray, " n"]
"""The index in `SPLITS` of each row's split."""

_BALANCED_FROM = 1000
_RATIO_TOLERANCE, _AGE_TOLERANCE = 0.01, 0.02
_TRIES = 256


def assign_splits(records: Records, how: SplitRule, seed: int, ratios: _Ratios = RATIOS) -> Records:
    """Decide the split of every row of a table that has none.

    BLAKE2b, keyed with the seed, maps a name to [0, 1), which is cut at the cumulative ratios. For "random" the name is
    the path: adding or removing rows moves no other row, and the shares are met as by chance, within about 1/sqrt(n).

    For "identity" the name is the identity, or the path where that is "" (then the image is a person of its own). A few
    people own many images, so chance would be coarse. From 1,000 people on, up to 256 hashes are tried. The first is
    taken under which every share is within 0.01 of its ratio and the ages of each split are distributed like all ages
    (their cumulative histograms differ by less than 0.02, or 1.5/sqrt(n) in a smaller split). If there is none, the
    first that needs the fewest doublings of these tolerances is taken: first of the shares', then of the ages'. Adding
    rows moves no other row unless it tips the balance of the chosen hash (7 of 240 single images did among 1,500
    people, none of 160 among more) or brings the 1,000th person. Below 1,000 people it never moves any row, and shares
    are met as by chance.

    Args:
        records: The table.
        how: What is hashed, as above.
        seed: Another seed gives another division.
        ratios: The shares of train, validation and test.

    Raises:
        DataError: if a split stays empty, or for "identity" if no row has one.
        ValueError: if the table has splits, or the ratios are not positive or do not sum to 1.
    """
    if (records.split != "").any():
        raise ValueError("the table has splits already")
    if min(ratios) <= 0 or not math.isclose(sum(ratios), 1):
        raise ValueError(f"ratios must be positive and sum to 1, got {ratios}")
    by = _by_identity if how == "identity" else _by_path
    decided = replace(records, split=np.asarray(SPLITS)[by(records, seed, ratios)])
    require_splits(decided)
    return decided


def _by_path(records: Records, seed: int, ratios: _Ratios) -> Sides:
    return _sides([("path", path) for path in records.path.tolist()], seed, ratios)


def _by_identity(records: Records, seed: int, ratios: _Ratios) -> Sides:
    require_identities(records)
    known = zip(records.identity.tolist(), records.path.tolist(), strict=True)
    names = [("identity", identity or path) for identity, path in known]
    people = {name: i for i, name in enumerate(dict.fromkeys(names))}
    person = np.asarray([people[name] for name in names])
    if len(people) < _BALANCED_FROM:
        return _sides(list(people), seed, ratios)[person]
    best, least = np.empty(0, np.int64), (math.inf, math.inf)
    for attempt in range(_TRIES):
        kinds = [(f"{kind} {attempt}" if attempt else kind, name) for kind, name in people]
        sides = _sides(kinds, seed, ratios)[person]
        imbalance = _imbalance(sides, records.age, ratios)
        if imbalance < least:
            best, least = sides, imbalance
        if imbalance == (0, 0):
            break
    return best


def _sides(names: list[tuple[str, str]], seed: int, ratios: _Ratios) -> Sides:
    """For each (kind, name) the index of its split in `SPLITS`."""
    places = np.asarray([place(kind, name, seed) for kind, name in names], np.float64)
    return np.searchsorted(np.cumsum(ratios)[:2], places, side="right")


def _imbalance(sides: Sides, ages: Years, ratios: _Ratios) -> tuple[float, float]:
    """The worst deviation of a share and of an age distribution, in doublings of what is tolerated, 0 or more.

    Doublings are rounded up, so that a slightly smaller deviation does not make another hash the best.
    """
    counts = np.bincount(sides, minlength=len(ratios))
    if not counts.all():
        return math.inf, math.inf
    shares = np.abs(counts / len(sides) - ratios).max() / _RATIO_TOLERANCE
    years = np.clip(ages, 0, 100).astype(np.int64)
    histograms = np.asarray([np.bincount(years[sides == side], minlength=101) for side in range(len(ratios))])
    cumulative = np.cumsum(histograms / counts[:, None], axis=1)
    whole = np.cumsum(histograms.sum(0) / len(sides))
    distances = np.abs(cumulative - whole[None]).max(axis=1) / np.maximum(_AGE_TOLERANCE, 1.5 / np.sqrt(counts))
    return _doublings(float(shares)), _doublings(float(distances.max()))


def _doublings(excess: float) -> float:
    return float(math.ceil(math.log2(max(excess, 1))))


def place(kind: str, name: str, seed: int) -> float:
    """A pseudo-random point in [0, 1) for a name of some kind, by BLAKE2b keyed with the seed; it never changes."""
    digest = hashlib.blake2b(f"{kind}:{name}".encode(), key=str(seed).encode(), digest_size=8)
    return int.from_bytes(digest.digest()) / 2**64


def require_identities(records: Records) -> None:
    """Raise DataError if no row has an identity: such a table cannot be split by people."""
    if not (records.identity != "").any():
        raise DataError('split "identity" needs a column identity (or group) in the data: add it, or choose "random"')


def require_splits(records: Records) -> None:
    """Check that every split has a row. Raises DataError if one is empty."""
    if empty := records.empty_splits():
        raise DataError(
            f"none of the {len(records)} images is in {' or '.join(empty)}: add images, try another seed, divide them "
            'anew (split "random"), or give every row a split in the CSV, so that each of the three has some'
        )


def leakage(records: Records) -> Json:
    """How many test images show someone who is in the training split too.

    Gives `test_images`; `test_images_known`, those with an identity; `test_images_seen`, those of them whose identity
    is in train; and `seen_share`, the last by the one before, None if no identity is known.
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
